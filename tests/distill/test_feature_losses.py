"""FitNet, AT, SP, VID, FT and RKD: their values by hand, in float64, from what two networks show."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from fastadv.distill import AT, CRD, DKD, FT, RKD, SP, VID, Batch, Features, FitNet, TripletKD
from tests.distill.staged import Staged, staged_student, staged_teacher

N = 5


@pytest.fixture
def networks(_seeded):
    """In eval mode, in which a network shows the same again."""
    return staged_student().double().eval(), staged_teacher().double().eval()


@pytest.fixture
def shown_batch(_seeded) -> Batch:
    return Batch(torch.rand(N, 1, 8, 8).double(), torch.tensor([0, 1, 2, 3, 0]), 0.5, 3, torch.tensor([4, 0, 9, 2, 7]))


def built(method, networks, batch):
    """The method, and what student and teacher show it."""
    student, teacher = networks
    method.build(student, teacher, batch.x, images=10)
    with torch.no_grad():
        of_teacher = teacher.with_features(batch.x)
    return method, student.with_features(batch.x), of_teacher


def halved(x):
    """The mean of each 2x2 square."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def attention(x):
    """By loops: of each image the squares summed over the channels, as a vector of length one."""
    rows = []
    for image in x:
        energy = sum(channel * channel for channel in image).flatten()
        rows.append(energy / sum(value * value for value in energy) ** 0.5)
    return torch.stack(rows)


def test_fitnet(networks, shown_batch):
    method, student, teacher = built(FitNet(beta=3.0, gamma=0.0), networks, shown_batch)
    convolution, norm = method.regressor[0]
    assert convolution.weight.shape == (8, 5, 1, 1)
    mixed = torch.einsum("oi,nihw->nohw", convolution.weight[:, :, 0, 0], student.maps[2])
    mixed = mixed + convolution.bias[:, None, None]
    mean, variance = mixed.mean(dim=(0, 2, 3)), mixed.var(dim=(0, 2, 3), unbiased=False)
    hint = ((mixed - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()).clamp(min=0)
    expected = 3 * (hint - teacher.maps[2]).square().sum() / (N * 8 * 16)
    torch.testing.assert_close(method.on_features(student, teacher, shown_batch), expected)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (Staged((3, 1)), Staged((4, 2))),
        (Staged((3, 2)), Staged((4, 1))),
        (Staged((3, 1)), Staged((4, 1))),
        (Staged((3, 1), (3, 2)), Staged((4, 1), (4, 2))),
        (Staged((3, 1)), Staged((3, 2), (4, 2))),
    ],
    ids=["twice", "half", "same", "same stride", "four times"],
)
def test_fitnet_leads_to_the_teachers_shape(student, teacher, batch):
    x, y = batch
    method = FitNet(layer=-1)
    method.build(student, teacher, x, images=len(x))
    assert method.regressor(student.with_features(x).maps[-1]).shape == teacher.with_features(x).maps[-1].shape
    assert method(student, teacher, Batch(x, y, progress=0.0, seed=0))["loss"].isfinite()


def test_fitnet_finds_no_way_to_a_map_four_times_as_large(batch):
    x, _ = batch
    with pytest.raises(ValueError, match=r"student must have maps as large as the teacher's \[8, 8\].* got \[2, 2\]"):
        FitNet(layer=-1).build(Staged((3, 2), (4, 2)), Staged((3, 1)), x, images=5)


def test_at(networks, shown_batch):
    method, student, teacher = built(AT(beta=2.0, gamma=0.0), networks, shown_batch)
    first = (attention(student.maps[1]) - attention(halved(teacher.maps[1]))).square().sum() / (N * 16)
    last = (attention(student.maps[2]) - attention(teacher.maps[2])).square().sum() / (N * 16)
    torch.testing.assert_close(method.on_features(student, teacher, shown_batch), 2 * (first + last))
    one = AT(beta=2.0, gamma=0.0, layers=[-1]).on_features(student, teacher, shown_batch)
    torch.testing.assert_close(one, 2 * last)


def test_sp(networks, shown_batch):
    method, student, teacher = built(SP(beta=7.0, gamma=0.0), networks, shown_batch)
    expected = 0.0
    for i in range(N):
        rows = []
        for maps in (student.maps[-1], teacher.maps[-1]):
            row = torch.stack([(maps[i] * maps[j]).sum() for j in range(N)])
            rows.append(row / row.square().sum().sqrt())
        expected = expected + (rows[0] - rows[1]).square().sum() / N**2
    torch.testing.assert_close(method.on_features(student, teacher, shown_batch), 7 * expected)


def test_vid(networks, shown_batch):
    method, student, teacher = built(VID(beta=2.0, gamma=0.0), networks, shown_batch)
    with torch.no_grad():
        method.likelihoods[1].scale.copy_(torch.linspace(-1, 2, 8))
    expected = 0.0
    targets = halved(teacher.maps[1]), teacher.maps[2]
    for layer, source, target in zip(method.likelihoods, student.maps[1:], targets, strict=True):
        x = source
        for convolution in (layer.mean[0], layer.mean[2], layer.mean[4]):
            assert convolution.bias is None
            x = torch.einsum("oi,nihw->nohw", convolution.weight[:, :, 0, 0], x.clamp(min=0))
        for channel in range(target.shape[1]):
            variance = (1 + layer.scale[channel].exp()).log() + 1e-5
            error = (x[:, channel] - target[:, channel]).square() / variance + variance.log()
            expected = expected + error.sum() / 2 / target.numel()
    torch.testing.assert_close(method.on_features(student, teacher, shown_batch), 2 * expected)


def test_vid_starts_at_variance_five(networks, shown_batch):
    method, *_ = built(VID(), networks, shown_batch)
    for layer in method.likelihoods:
        torch.testing.assert_close((1 + layer.scale.exp()).log() + 1e-5, torch.full_like(layer.scale, 5.0))


def test_ft(networks, shown_batch):
    method, student, teacher = built(FT(beta=2.0, gamma=0.0), networks, shown_batch)
    translated, paraphrased = student.maps[-1], teacher.maps[-1]
    assert [method.paraphraser[i].out_channels for i in (0, 2, 4)] == [8, 4, 4]
    assert [method.translator[i].out_channels for i in (0, 3, 6)] == [5, 4, 4]
    assert [method.decoder[i].out_channels for i in (0, 2, 4)] == [4, 8, 8]
    for i in (0, 3, 6):
        translated = method.translator[i](translated)
        mean, variance = translated.mean((0, 2, 3)), translated.var((0, 2, 3), correction=0)
        translated = (translated - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
        translated = torch.where(translated > 0, translated, translated / 10)
    for i in (0, 2, 4):
        paraphrased = method.paraphraser[i](paraphrased)
        paraphrased = torch.where(paraphrased > 0, paraphrased, paraphrased / 10)
    expected = 2 * (attention(translated) - attention(paraphrased)).abs().sum() / (N * 16)
    torch.testing.assert_close(method.on_features(student, teacher, shown_batch), expected)


def test_ft_warms_its_paraphraser_up_and_then_freezes_it(networks, shown_batch):
    student, teacher = networks
    method, *_ = built(FT(gamma=1.0), networks, shown_batch)
    assert method.warm_up_epochs == 30
    warm, own = list(method.warm_up_parameters()), list(method.own_parameters())
    assert {id(parameter) for parameter in (*warm, *own)} == {id(parameter) for parameter in method.parameters()}
    assert len(warm) + len(own) == len(list(method.parameters()))

    optimizer = torch.optim.SGD(warm, lr=0.05)
    losses = []
    for _ in range(30):
        terms = method.warm_up_terms(teacher, shown_batch)
        losses.append(terms["loss"].detach())
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        maps = teacher.with_features(shown_batch.x).maps[-1]
        error = (method.decoder(method.paraphraser(maps)) - maps).square().sum() / maps.numel()
    assert error < losses[-1] < losses[0]
    assert all(parameter.grad is None for parameter in (*own, *teacher.parameters(), *student.parameters()))

    optimizer.zero_grad()
    method(student, teacher, shown_batch)["loss"].backward()
    assert all(parameter.grad is None for parameter in warm)
    assert all(parameter.grad is not None for parameter in own)


def test_rkd(networks, shown_batch):
    options = {"beta": 2.0, "gamma": 0.0, "distance_weight": 3.0, "angle_weight": 5.0}
    method, student, teacher = built(RKD(**options), networks, shown_batch)
    relations = []
    for points in (student.embedding, teacher.embedding):
        gaps = points[None] - points[:, None]
        distances = gaps.square().sum(2).sqrt()
        edges = gaps / distances.clamp(min=1e-12)[..., None]
        relations.append((distances / (distances.sum() / (N * (N - 1))), torch.einsum("ijd,ikd->ijk", edges, edges)))
    (distances_s, angles_s), (distances_t, angles_t) = relations

    def smooth(t):
        return torch.where(t.abs() < 1, t * t / 2, t.abs() - 0.5)

    expected = 3 * smooth(distances_s - distances_t).mean() + 5 * smooth(angles_s - angles_t).mean()
    torch.testing.assert_close(method.on_features(student, teacher, shown_batch), 2 * expected)


@pytest.mark.parametrize("method", [FitNet, AT, SP, VID, FT, CRD, RKD, TripletKD])
def test_the_sum(method, networks, shown_batch):
    """L = gamma CE + alpha KD + beta D."""
    weighed, student, teacher = built(method(beta=0.0, gamma=0.3, alpha=0.5, temperature=2.0), networks, shown_batch)
    y = shown_batch.y
    soft = kl_div(log_softmax(student.logits / 2, 1), softmax(teacher.logits / 2, 1), reduction="batchmean")
    expected = 0.3 * cross_entropy(student.logits, y) + 0.5 * 4 * soft
    torch.testing.assert_close(weighed.on_features(student, teacher, shown_batch), expected)
    distance = method(beta=1.0, gamma=0.0, alpha=0.0)
    distance.build(*networks, shown_batch.x, images=10)
    distance.load_state_dict(weighed.state_dict())
    weighed.load_state_dict(distance.state_dict())
    weighed.beta = 2.0
    both = weighed.on_features(student, teacher, shown_batch)
    torch.testing.assert_close(both, expected + 2 * distance.on_features(student, teacher, shown_batch))


def test_published_weights():
    weights = {cls.__name__: (cls().gamma, cls().alpha, cls().beta) for cls in (FitNet, AT, SP, VID, FT, CRD, RKD)}
    assert weights == {
        "FitNet": (1, 0, 100),
        "AT": (1, 0, 1000),
        "SP": (1, 0, 3000),
        "VID": (1, 0, 1),
        "FT": (1, 0, 200),
        "CRD": (1, 0, 0.8),
        "RKD": (1, 0, 1),
    }


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        *(
            (cls, {"beta": -1.0}, ValueError, "beta must not be negative")
            for cls in (FitNet, AT, SP, VID, FT, CRD, RKD)
        ),
        *((cls, {"gamma": "1"}, TypeError, "gamma must be a float, got str") for cls in (FitNet, DKD, TripletKD)),
        (SP, {"alpha": float("nan")}, ValueError, "alpha must be a number"),
        (SP, {"temperature": 0.0}, ValueError, "temperature must be positive"),
        (FitNet, {"layer": 1.0}, TypeError, "layer must be an int, got float"),
        (AT, {"layers": "12"}, TypeError, "layers must be None or a sequence of ints, got str"),
        (AT, {"layers": ["1"]}, TypeError, "layers must be an int, got str"),
        (VID, {"layers": []}, ValueError, "layers must name one map or more"),
        (FT, {"ratio": 0.0}, ValueError, r"ratio must lie in \(0, 1\]"),
        (FT, {"warm_up_epochs": -1}, ValueError, "warm_up_epochs must be at least 0"),
        (RKD, {"angle_weight": -1.0}, ValueError, "angle_weight must not be negative"),
    ],
)
def test_bad_arguments_are_named(method, options, error, message):
    with pytest.raises(error, match=message):
        method(**options)


@pytest.mark.parametrize("method", [FitNet, VID, FT, CRD])
def test_what_learns_modules_has_to_be_built(method, networks, shown_batch):
    with pytest.raises(RuntimeError, match=rf"{method.__name__} learns modules of its own: call build"):
        method()(*networks, shown_batch)


@pytest.mark.parametrize("method", [FitNet, VID, FT, CRD])
def test_building_needs_networks_that_show_features(method, networks, student, shown_batch):
    with pytest.raises(TypeError, match="teacher must be a network for"):
        method().build(networks[0], None, shown_batch.x, images=10)
    with pytest.raises(TypeError, match=r"student must have with_features\(x\)"):
        method().build(student.double(), networks[1], shown_batch.x, images=10)


@pytest.mark.parametrize("method", [AT, SP, RKD])
def test_networks_without_features_are_named(method, networks, teacher, shown_batch):
    with pytest.raises(TypeError, match=r"teacher must have with_features\(x\), .* got Counting"):
        method()(networks[0], teacher.double(), shown_batch)
    with pytest.raises(TypeError, match=r"teacher must have with_features\(x\), .* got Counting"):
        method().build(networks[0], teacher.double(), shown_batch.x, images=10)


def test_maps_that_are_not_there_are_named(networks, shown_batch):
    student, teacher = networks
    with pytest.raises(ValueError, match="layer must index the 3 maps of the student, got 3"):
        FitNet(layer=3).build(student, teacher, shown_batch.x, images=10)
    shallow = Staged((3, 1), (4, 2)).double()
    for method in (AT(), VID()):
        with pytest.raises(ValueError, match=r"layers must be given .* got 2 of the student and 3 of the teacher"):
            method.build(shallow, teacher, shown_batch.x, images=10)
    assert AT(layers=(-1,))(shallow, teacher, shown_batch)["loss"].isfinite()


@pytest.mark.parametrize("method", [AT, FitNet, VID, FT, CRD, SP])
def test_building_leaves_the_networks_as_they_were(method, shown_batch):
    student, teacher = staged_student().double(), staged_teacher().double()
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in (student, teacher)]
    method().build(student, teacher, shown_batch.x, images=10)
    assert student.training
    assert teacher.training
    for network, state in zip((student, teacher), before, strict=True):
        torch.testing.assert_close(dict(network.state_dict()), state, atol=0, rtol=0)
        assert all(parameter.grad is None for parameter in network.parameters())


def test_products_of_features_keep_their_precision_under_autocast(networks, shown_batch):
    method, student, teacher = built(SP(gamma=0.0), networks, shown_batch)
    student, teacher = (
        Features(*([x.float() for x in maps] for maps in seen[:2]), *seen[2:]) for seen in (student, teacher)
    )
    expected = method.on_features(student, teacher, shown_batch)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(method.on_features(student, teacher, shown_batch), expected)

"""AMKD: its triplets by hand, whom they are made of, the layer between features of different length."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import triplet_margin_loss

from fastadv.distill import AMKD, BSS, Batch, Features
from tests.attacks.host_reads import HostReads

SEED = 7


class Seeing(nn.Module):
    """A small network that shows its embedding of `width` numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside, self.last = nn.Linear(64, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.with_features(x).logits

    def with_features(self, x: Tensor) -> Features:
        embedding = self.inside(x.flatten(1)).relu()
        return Features((), (), embedding, self.last(embedding))


@pytest.fixture
def teacher(_seeded):
    return Seeing(24).double()


@pytest.fixture
def student(teacher):
    """Agrees with the teacher often, though not always."""
    network = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


@pytest.fixture
def batch(student, teacher) -> Batch:
    x = torch.rand(40, 1, 8, 8, dtype=torch.float64)
    y = teacher(x).argmax(1)
    y[::7] = (y[::7] + 1) % 4
    return Batch(x, y, progress=0.2, seed=SEED)


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("embedding", ["features", "logits"])
@pytest.mark.parametrize("triplet", ["teacher", "clean", "same-class"])
def test_the_triplets_by_hand(embedding, triplet, student, teacher, batch):
    options = {"attack_size": 38, "steps": 4, "step_size": 0.4}
    method = AMKD(embedding, triplet, **options)
    method.build(student, teacher, batch.x, images=40)
    terms = method(student, teacher, batch)
    _, boundary, alone = BSS(**options).distil(student, teacher, batch)
    margin, weight = (0.5, 1.0) if embedding == "features" else (5.0, 2.0)

    clean, of_boundary, _ = method.distil(student, teacher, batch)
    vectors = (lambda shown: unit(shown.embedding)) if embedding == "features" else (lambda shown: shown.logits)
    at_clean, at_boundary, taught = map(vectors, (clean, of_boundary.student, of_boundary.teacher))
    losses, fallbacks = [], 0
    for m, (n, chosen, k) in enumerate(zip(boundary.places, boundary.chosen, boundary.target, strict=True)):
        if not chosen:
            continue
        same = [i for i in range(40) if batch.y[i] == batch.y[n]]
        positive = at_boundary[m]
        anchor = {"teacher": taught[m], "clean": at_clean[n], "same-class": at_boundary[m]}[triplet]
        if triplet == "same-class":
            positive = at_clean[max(same, key=lambda i: (at_clean[i] - anchor).norm())]
        beyond = [i for i in range(40) if batch.y[i] == k]
        fallbacks += not beyond
        beyond = beyond or [i for i in range(40) if batch.y[i] != batch.y[n]]
        negative = at_clean[min(beyond, key=lambda i: (at_clean[i] - anchor).norm())]
        losses.append(triplet_margin_loss(anchor, positive, negative, margin=margin))
    expected = torch.stack(losses).mean()
    assert 5 < len(losses) < 38
    assert fallbacks > 0
    assert expected > 0
    torch.testing.assert_close(terms["triplet"], expected.detach())
    torch.testing.assert_close(terms["loss"], alone["loss"] + weight * expected)
    torch.testing.assert_close(
        {name: terms[name] for name in ("ce", "kd", "bss")}, {name: alone[name] for name in ("ce", "kd", "bss")}
    )
    parameters = list(student.parameters())
    found = torch.autograd.grad(terms["loss"], parameters)
    torch.testing.assert_close(found, torch.autograd.grad(alone["loss"] + weight * expected, parameters))


def test_the_negative_where_the_batch_has_none_of_the_target(student, teacher):
    x = torch.rand(12, 1, 8, 8, dtype=torch.float64)
    y = teacher(x).argmax(1)
    y[:] = y[0]
    batch = Batch(x, y, seed=SEED, progress=0.0)
    lonely = AMKD(triplet="clean", step_size=0.4)(student, teacher, batch)
    assert lonely["bss"] > 0
    assert lonely["triplet"] == 0  # nobody is of another class
    y[5] = (y[0] + 1) % 4
    _, boundary, _ = BSS(step_size=0.4).distil(student, teacher, batch)
    assert (boundary.chosen & (boundary.target != y[5])).any()
    terms = AMKD(triplet="clean", step_size=0.4, margin=9.0)(student, teacher, batch)
    # With so wide a margin no hinge is closed: all triplets have the one negative, whatever their target is.
    assert terms["triplet"] > 9.0 - 2.0


def test_there_are_no_triplets_without_boundary_samples(student, teacher, batch):
    late = Batch(batch.x, batch.y, progress=0.8, seed=0)
    terms = AMKD()(student, teacher, late)
    assert terms["triplet"] == 0
    torch.testing.assert_close(terms["loss"], BSS()(student, teacher, late)["loss"])


def test_features_of_different_length_are_joined_by_a_layer(teacher, batch):
    student, method = Seeing(16).double(), AMKD(bss_weight=1.0)
    with pytest.raises(ValueError, match=r"features of 16 and 24 numbers, which build\(\) joins"):
        method(student, teacher, batch)
    method.build(student, teacher, batch.x, images=40)
    weight, bias = method.own_parameters()
    assert weight.shape == (16, 24)
    # An untrained student is seldom right: the classes are its own where the teacher agrees.
    agreed = Batch(batch.x, student(batch.x).argmax(1), seed=SEED, progress=0.0)
    terms = method(student, teacher, agreed)
    terms["loss"].backward()
    assert terms["triplet"] > 0
    assert weight.grad.abs().sum() > 0
    assert bias.grad.isfinite().all()

    restored = AMKD(bss_weight=1.0)
    restored.build(student, teacher, batch.x, images=40)
    restored.load_state_dict(method.state_dict())
    assert restored(student, teacher, agreed)["loss"] == terms["loss"]


@pytest.mark.parametrize("options", [{"embedding": "logits"}, {"triplet": "clean"}, {"triplet": "same-class"}, {}])
def test_no_layer_where_none_is_needed(options, student, teacher, batch):
    method = AMKD(**options)
    method.build(student, teacher if not options else Seeing(9).double(), batch.x, images=40)
    assert list(method.own_parameters()) == []


def test_networks_without_features_are_compared_by_logits(teacher, batch):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    with pytest.raises(TypeError, match="student must have with_features"):
        AMKD()(network, network, batch)
    for triplet in ("teacher", "clean", "same-class"):
        with pytest.raises(TypeError, match="student must have with_features"):
            AMKD(triplet=triplet).build(network, teacher, batch.x, images=40)
        with pytest.raises(TypeError, match="teacher must have with_features"):
            AMKD(triplet=triplet).build(teacher, network, batch.x, images=40)
    AMKD("logits").build(network, network, batch.x, images=40)
    assert AMKD("logits")(network, copy.deepcopy(network), batch)["loss"].isfinite()


def test_building_leaves_no_trace(batch):
    class Normed(Seeing):
        def __init__(self, width):
            super().__init__(width)
            self.norm = nn.BatchNorm2d(1)

        def with_features(self, x):
            return super().with_features(self.norm(x))

    student, teacher = Normed(8).double(), Normed(9).double()
    AMKD().build(student, teacher, batch.x, images=40)
    assert student.norm.num_batches_tracked == teacher.norm.num_batches_tracked == 0
    assert student.norm.training


def test_the_seed_decides(student, teacher, batch):
    method = AMKD(step_size=0.4)
    losses = [
        method(student, teacher, Batch(batch.x, batch.y, seed=seed, progress=0.0))["loss"]
        for seed in (1, torch.tensor(1), 2)
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_half_precision(student, teacher, batch):
    x = batch.x.float()
    with torch.autocast("cpu", torch.bfloat16):
        terms = AMKD()(student.float(), teacher.float(), Batch(x, batch.y, progress=0.0, seed=0))
    terms["loss"].backward()
    assert terms["triplet"].dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize("embedding", ["features", "logits"])
@pytest.mark.parametrize("triplet", ["teacher", "clean", "same-class"])
def test_no_value_is_read_back(embedding, triplet, student, teacher, batch):
    """On the meta device there is no value to read: an item(), a branch on a tensor or a boolean index raises."""
    on_device = Batch(batch.x.float().to("meta"), batch.y.to("meta"), progress=0.0, seed=0)
    student, teacher = (network.float().to("meta") for network in (student, teacher))
    with HostReads() as probe:
        terms = AMKD(embedding, triplet)(student, teacher, on_device)
        terms["loss"].backward()
    assert terms["loss"].is_meta
    assert probe.found == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"embedding": "maps"}, ValueError, "embedding must be one of 'features', 'logits', got 'maps'"),
        ({"triplet": "hard"}, ValueError, "triplet must be one of 'teacher', 'clean', 'same-class', got 'hard'"),
        ({"margin": 0.0}, ValueError, "margin must be positive"),
        ({"triplet_weight": -1.0}, ValueError, "triplet_weight must not be negative"),
        ({"attack_size": 0}, ValueError, "attack_size must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        AMKD(**options)

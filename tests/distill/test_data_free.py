"""DataFree: its losses by hand, its generator, whom each gradient reaches, and that no training image is read."""

import copy

import pytest
import torch
from torch import Tensor, nn

import fastadv
from fastadv.distill import Batch, DataFree, Features
from fastadv.distill.parts.generator import ImageGenerator
from tests.attacks.host_reads import HostReads

PLAIN = {"interpolation_weight": 0.0, "activation_weight": 0.0}
SMALL = {"latent": 6, "width": 3}
EXAMPLE = torch.zeros(1, 1, 8, 8)
IMAGES = 5


class Network(nn.Module):
    """Two stages and logits, that counts its forward passes and remembers the images of the last."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        channels = (1, *widths)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1), nn.BatchNorm2d(widths[i]))
            for i in range(len(widths))
        )
        self.fc = nn.Linear(widths[-1], 4)
        self.rows: list[int] = []
        self.seen: Tensor | None = None

    def with_features(self, x: Tensor) -> Features:
        self.rows.append(len(x))
        self.seen = x.detach()
        preactivations = []
        for stage in self.stages:
            preactivations.append(stage(x))
            x = preactivations[-1].relu()
        embedding = x.mean((2, 3))
        return Features(tuple(map(torch.relu, preactivations)), tuple(preactivations), embedding, self.fc(embedding))

    def forward(self, x: Tensor) -> Tensor:
        return self.with_features(x).logits


@pytest.fixture
def networks() -> tuple[Network, Network]:
    """Student and teacher."""
    return Network(4, 6), Network(4, 8)


def built(networks, **options):
    student, teacher = networks
    method = DataFree(**{**SMALL, **options})
    method.build(student, teacher, EXAMPLE, images=0)
    for network in networks:
        network.rows.clear()
    return method


def empty(seed: int | Tensor = 3, *, images: int = IMAGES, progress: float = 0.25) -> Batch:
    return Batch(torch.empty(images, 0), torch.empty(images, dtype=torch.int64), progress=progress, seed=seed)


def boundary(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    inactive = (student + margin) ** 2 * ((student > -margin) & (teacher <= 0))
    active = (student - margin) ** 2 * ((student <= margin) & (teacher > 0))
    return (inactive + active).sum() / len(student)


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        {"activation_weight": 0.0, "interpolation_weight": 0.7},
        {"activation_weight": 0.0, "interpolation_target": "teacher", "interpolation_alpha": 0.4},
        {"interpolation_weight": 0.0, "activation_weight": 0.3, "activation_margin": 0.5},
        {"interpolation_weight": 0.7, "activation_weight": 0.3},
    ],
)
def test_loss_of_the_student_by_hand(networks, options):
    student, teacher = (network.double() for network in networks)
    method = built(networks, **options).double()
    again = copy.deepcopy((method, networks))
    terms = method(student, teacher, empty())
    terms["loss"].backward()

    rows = student.seen
    method, (student, teacher) = again
    x = method.draw(IMAGES, seed=3)
    torch.testing.assert_close(rows[:IMAGES], x)
    of_student, of_teacher = student.with_features(rows), teacher.eval().with_features(x)
    teacher_logits = of_teacher.logits.detach()
    discrepancy = (teacher_logits - of_student.logits[:IMAGES]).abs().mean()
    expected = {"loss": discrepancy, "discrepancy": discrepancy}
    if method.interpolation_weight:
        other = torch.cat((x[-1:], x[:-1]))
        share = ((rows[IMAGES:] - other) * (x - other)).flatten(1).sum(1) / (x - other).square().flatten(1).sum(1)
        torch.testing.assert_close(rows[IMAGES:], other + share.view(-1, 1, 1, 1) * (x - other))
        assert ((share > 0) & (share < 1)).all()
        assert share.unique().numel() == IMAGES
        target = share[:, None] * teacher_logits + (1 - share[:, None]) * torch.cat(
            (teacher_logits[-1:], teacher_logits[:-1])
        )
        if method.interpolation_target == "teacher":
            target = teacher(rows[IMAGES:]).detach()
        expected["interpolation"] = (of_student.logits[IMAGES:] - target).abs().mean()
        expected["loss"] = expected["loss"] + method.interpolation_weight * expected["interpolation"]
    if method.activation_weight:
        first, second = (layer[:IMAGES] for layer in of_student.preactivations)
        layers = [
            boundary(own, goal, method.activation_margin)
            for own, goal in zip((first, method.connectors[1](second)), of_teacher.preactivations, strict=True)
        ]
        expected["activation"] = 3 / 1000 * (layers[0] / 2 + layers[1])
        expected["loss"] = expected["loss"] + method.activation_weight * 0.75 * expected["activation"]
    torch.testing.assert_close(terms, expected)
    assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]

    expected["loss"].backward()
    for computed, by_hand in ((networks[0], student), (again[0].connectors, method.connectors)):
        torch.testing.assert_close(gradients(computed), gradients(by_hand))


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in module.parameters()]


@pytest.mark.parametrize("options", [{}, {"generator_loss": "log"}, {"activation_in_generator": True}])
def test_loss_of_the_generator_by_hand(networks, options):
    student, teacher = networks
    method = built(networks, **options)
    reference = copy.deepcopy(student)
    terms = method.adversary_terms(student, teacher, empty())
    x = student.seen
    of_student, of_teacher = reference.with_features(x), teacher.eval().with_features(x)
    discrepancy = (of_teacher.logits - of_student.logits).abs().mean()
    expected = -torch.log(discrepancy + 1) if options.get("generator_loss") else -discrepancy
    if options.get("activation_in_generator"):
        own = of_student.preactivations[0], method.connectors[1](of_student.preactivations[1])
        layers = [boundary(*pair, 1.0) for pair in zip(own, of_teacher.preactivations, strict=True)]
        expected = expected - 0.75 * 3 / 1000 * (layers[0] / 2 + layers[1])
    torch.testing.assert_close(terms, {"loss": expected, "discrepancy": discrepancy})
    assert not torch.equal(x, method.draw(IMAGES, seed=3)), "the generator's step sees noise of its own"


def test_the_two_pull_in_opposite_directions(networks):
    student, teacher = networks
    method = built(networks, **PLAIN)

    def discrepancy() -> Tensor:
        return method.adversary_terms(student, teacher, empty())["discrepancy"]

    before = discrepancy()
    method.adversary_terms(student, teacher, empty())["loss"].backward()
    with torch.no_grad():
        for parameter in method.adversary.parameters():
            parameter -= 0.01 * parameter.grad
    assert discrepancy() > before
    method = built(networks, **PLAIN)
    before = method(student, teacher, empty())
    before["loss"].backward()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter -= 0.01 * parameter.grad
    assert method(student, teacher, empty())["discrepancy"] < before["discrepancy"]


def test_gradients_reach_whom_they_are_for(networks):
    student, teacher = networks
    teacher.fc.requires_grad_(False)
    method = built(networks, activation_in_generator=True)
    trained = [*student.parameters(), *method.connectors.parameters()]
    others = [*teacher.parameters(), *method.adversary.parameters()]
    assert set(method.own_parameters()) == set(method.connectors.parameters())
    method(student, teacher, empty())["loss"].backward()
    assert all(parameter.grad is not None for parameter in trained)
    assert all(parameter.grad is None for parameter in others)

    student.zero_grad()
    method.zero_grad()
    method.adversary_terms(student, teacher, empty())["loss"].backward()
    assert all(parameter.grad is not None for parameter in method.adversary.parameters())
    assert all(parameter.grad is None for parameter in (*trained, *teacher.parameters()))
    assert all(parameter.requires_grad for parameter in (*trained, *method.adversary.parameters()))
    assert [parameter.requires_grad for parameter in teacher.fc.parameters()] == [False, False]


@pytest.mark.parametrize(
    ("options", "student_rows", "teacher_rows"),
    [
        (PLAIN, [5], [5]),
        ({"interpolation_weight": 0.0}, [5], [5]),
        ({"activation_weight": 0.0}, [10], [5]),
        ({"interpolation_target": "teacher"}, [10], [10]),
    ],
)
def test_forward_passes(networks, options, student_rows, teacher_rows):
    student, teacher = networks
    method = built(networks, **options)
    method(student, teacher, empty())
    assert (student.rows, teacher.rows) == (student_rows, teacher_rows)
    method.adversary_terms(student, teacher, empty())
    assert (student.rows, teacher.rows) == ([*student_rows, 5], [*teacher_rows, 5])


def test_networks_keep_their_modes_and_the_teacher_its_statistics(networks):
    student, teacher = networks
    method = built(networks)
    teacher.stages[0].eval()
    flags = [module.training for module in teacher.modules()]
    before = copy.deepcopy(teacher.state_dict())
    method(student, teacher, empty())
    method.adversary_terms(student, teacher, empty())
    assert [module.training for module in teacher.modules()] == flags
    torch.testing.assert_close(teacher.state_dict(), before, atol=0, rtol=0)
    assert all(module.training for module in (*student.modules(), *method.modules()))


def test_the_seed_alone_decides(networks):
    student, teacher = networks
    method = built(networks)
    student.eval()
    state = torch.get_rng_state()
    for terms in (method, method.adversary_terms):
        losses = [terms(student, teacher, empty(seed))["loss"] for seed in (1, torch.tensor(1), 2)]
        assert losses[0] == losses[1]
        assert losses[0] != losses[2]
    assert torch.equal(torch.get_rng_state(), state)


class Unread(Tensor):
    """Images of which only number and shape may be known."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func not in (Tensor.__len__, Tensor.shape.__get__):
            raise AssertionError(f"{func.__name__} reads the training images")
        return super().__torch_function__(func, types, args, kwargs)


@pytest.mark.parametrize("options", [PLAIN, {}])
def test_no_training_image_is_read(networks, options):
    method = DataFree(**SMALL, **options)
    x, y = torch.rand(IMAGES, 1, 8, 8).as_subclass(Unread), torch.zeros(IMAGES).as_subclass(Unread)
    with pytest.raises(AssertionError, match="reads the training images"):
        x.sum()
    assert not method.needs_images
    method.build(*networks, x, images=IMAGES)
    for terms in (method, method.adversary_terms):
        assert terms(*networks, Batch(x, y, progress=0.0, seed=0))["loss"].isfinite()


def test_another_method_loaded_with_the_state_goes_on(networks):
    student, teacher = networks
    method = built(networks)
    optimizer = method.adversary_optimizer()
    method.adversary_terms(student, teacher, empty())["loss"].backward()
    optimizer.step()
    other = built(networks)
    other.load_state_dict(method.state_dict())
    other_student = copy.deepcopy(student)
    for ours, theirs in ((method, other), (method.adversary_terms, other.adversary_terms)):
        assert torch.equal(ours(student, teacher, empty())["loss"], theirs(other_student, teacher, empty())["loss"])


@pytest.mark.parametrize("options", [PLAIN, {}, {"activation_in_generator": True}])
def test_no_value_is_read_back(networks, options):
    """On the meta device there is no value to read; the probe sees what copies from it."""
    student, teacher = (network.to("meta") for network in networks)
    method = built((student, teacher), **options)
    for terms in (method, method.adversary_terms):
        with HostReads() as probe:
            assert terms(student, teacher, empty())["loss"].is_meta
        assert probe.found == []


@pytest.mark.skipif(fastadv.backends()["cpu"] != "available", reason="the reference reads its noise's seed")
def test_a_step_has_nothing_for_the_host_to_read(networks):
    """But for the arguments of mix, which are looked at where they lie on the host."""
    student, teacher = networks
    method = built(networks, interpolation_weight=0.0, activation_in_generator=True)
    for terms in (method, method.adversary_terms):
        with HostReads() as probe:
            terms(student, teacher, empty())
        assert probe.found == []


def test_half_precision(networks):
    student, teacher = networks
    method = built(networks)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(student, teacher, empty())
        rival = method.adversary_terms(student, teacher, empty())
    assert all(term.dtype is torch.float32 for term in (*terms.values(), *rival.values()))
    terms["loss"].backward()
    rival["loss"].backward()
    for module in (student, method.adversary):
        assert all(gradient.isfinite().all() for gradient in gradients(module))
    method = built((student.bfloat16(), teacher.bfloat16()))
    for terms in (method, method.adversary_terms):
        assert terms(student, teacher, empty())["loss"].isfinite()


def test_deeper_teachers_are_matched_from_the_last_stage(networks):
    student, teacher = Network(4), Network(3, 4, 8)
    method = built((student, teacher))
    assert len(method.connectors) == 1
    before = method(student, teacher, empty())["activation"]
    teacher.stages[2][1].bias.data += 5
    assert method(student, teacher, empty())["activation"] != before


def test_networks_without_features(student, teacher):
    method = DataFree(**{**SMALL, "activation_weight": 0.0})
    method.build(student, teacher, EXAMPLE, images=0)
    assert method(student, teacher, empty())["loss"].isfinite()
    with pytest.raises(TypeError, match=r"student must have with_features\(x\)"):
        DataFree(**SMALL).build(student, teacher, EXAMPLE, images=0)


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 32, 28)])
def test_generator(shape):
    generator = ImageGenerator(shape, latent=10, width=4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))
    images = generator(torch.randn(16, 10))
    assert images.shape == (16, *shape)
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.4, 0.3]), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.tensor([0.2, 0.3, 0.1]), atol=1e-2, rtol=0)


def test_generator_has_the_parameters_of_the_published_one():
    generator = ImageGenerator((3, 32, 32), latent=256, width=64, mean=(0.5,), std=(0.25,))
    hidden = 257 * 128 * 64 + 2 * 128
    convolutions = (9 * 128 + 1) * 128 + 2 * 128 + (9 * 128 + 1) * 64 + 2 * 64 + (9 * 64 + 1) * 3
    assert sum(parameter.numel() for parameter in generator.parameters()) == hidden + convolutions


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"latent": 1.5}, TypeError, "latent must be an int, got float"),
        ({"mean": []}, TypeError, r"mean must be a float or one a channel, got \[\]"),
        ({"mean": ["a"]}, TypeError, "mean must be a float, got str"),
        ({"std": 0.0}, ValueError, "std must be positive, got 0.0"),
        ({"interpolation_weight": -1.0}, ValueError, "interpolation_weight must not be negative"),
        ({"interpolation_alpha": 0.0}, ValueError, "interpolation_alpha must be positive"),
        ({"interpolation_target": "student"}, ValueError, "interpolation_target must be one of 'mixed', 'teacher'"),
        ({"activation_weight": "1"}, TypeError, "activation_weight must be a float, got str"),
        ({"activation_in_generator": 1}, TypeError, "activation_in_generator must be a bool"),
        ({"generator_loss": "bce"}, ValueError, "generator_loss must be one of 'linear', 'log', got 'bce'"),
        ({"adversary_every": 0}, ValueError, "adversary_every must be at least 1, got 0"),
        ({"adversary_lr": 0.0}, ValueError, "adversary_lr must be positive"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        DataFree(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (1, 10, 8), r"x must have images \[C, H, W\], H and W multiples of 4, got \[1, 10, 8\]"),
        ({}, (0,), r"x must have images .* got \[0\]"),
        ({"mean": [0.5, 0.5]}, (1, 8, 8), r"mean must have one value or one a channel, 1, got \[0.5, 0.5\]"),
        ({"std": [0.5, 0.5]}, (3, 8, 8), "std must have one value or one a channel, 3"),
    ],
)
def test_images_that_cannot_be_generated(networks, options, shape, message):
    with pytest.raises(ValueError, match=message):
        DataFree(**SMALL, **options).build(*networks, torch.empty(2, *shape), images=0)


def test_what_a_step_needs(networks):
    student, teacher = networks
    assert DataFree.needs_teacher
    with pytest.raises(TypeError, match="teacher must be a network for DataFree, got None"):
        built(networks)(student, None, empty())
    with pytest.raises(RuntimeError, match=r"DataFree learns modules of its own: call build\(.*\) first"):
        DataFree(**SMALL)(student, teacher, empty())

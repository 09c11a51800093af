"""Any module shows features by hooks; students under DistributedDataParallel and torch.compile serve every method."""

import inspect
from functools import partial

import pytest
import torch
from torch import nn

from fastadv import distill
from fastadv.attacks import Logits
from fastadv.distill import Batch, Distiller, Hooked
from fastadv.distill.parts.features import features_of
from tests.distill.staged import CLASSES, staged_student, staged_teacher


def plain(seed, *, inplace=True, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, CLASSES),
    )


@pytest.fixture
def x():
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("inplace", [False, True])
def test_maps_preactivations_and_embedding_are_those_of_the_modules(x, inplace):
    network = plain(0, inplace=inplace)
    shown = Hooked(network, ["1", "4"]).with_features(x)
    with torch.no_grad():
        before = network[0](x)
        maps = before.relu()
        after = network[3].train()(network[2](maps))
    assert torch.equal(shown.preactivations[0], before)
    assert torch.equal(shown.maps[0], maps)
    torch.testing.assert_close(shown.maps[1], after.relu())
    torch.testing.assert_close(shown.preactivations[1], after)
    torch.testing.assert_close(shown.embedding, after.relu().mean((2, 3)))
    assert torch.equal(shown.logits, network[7](shown.embedding))


def test_the_embedding_may_be_named(x):
    network = plain(0)
    shown = Hooked(network, ["1"], penultimate="5").with_features(x)
    assert torch.equal(shown.embedding, Hooked(network, ["1"]).with_features(x).embedding)


def test_shapes_are_reported_and_nothing_moves(x):
    network = plain(0).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shapes = Hooked(network, ["1", "4"]).shapes(x)
    assert shapes == {"1": (3, 4, 8, 8), "4": (3, 8, 4, 4), "embedding": (3, 8), "logits": (3, CLASSES)}
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("layers", "penultimate", "message"),
    [
        (["layer1"], None, r"'layer1' is no module of Sequential; near are "),
        (["1"], "head", r"'head' is no module of Sequential"),
        ([], None, r"layers must be names of modules, got \[\]"),
        ("1", None, r"layers must be names of modules, got '1'"),
    ],
)
def test_names_are_checked(layers, penultimate, message):
    with pytest.raises(ValueError, match=message):
        Hooked(plain(0), layers, penultimate)


@pytest.mark.parametrize("layers", [3, [3], None])
def test_what_is_no_name_is_named(layers):
    with pytest.raises(TypeError, match=r"layers must be names of modules, got "):
        Hooked(plain(0), layers)


def test_inference_mode_has_features_too(x):
    hooked = Hooked(plain(0).eval(), ["1"])
    with torch.inference_mode():
        found = hooked.with_features(x)
    assert torch.equal(found.logits, hooked.with_features(x).logits)


def test_what_is_no_map_or_overwritten_is_named(x):
    with pytest.raises(ValueError, match=r"layer '6' gives \[3, 8\], expected a map"):
        Hooked(plain(0), ["6"]).with_features(x)
    with pytest.raises(ValueError, match="layer '3': its output is overwritten in place by what follows"):
        Hooked(plain(0), ["3"]).with_features(x)
    assert len(Hooked(plain(0, inplace=False), ["3"]).with_features(x).maps) == 1
    twice = nn.Sequential(*[relu := nn.ReLU(), nn.Conv2d(1, 1, 1), relu, nn.Flatten(), nn.Linear(64, CLASSES)])
    with pytest.raises(ValueError, match="layer '0' was called 2 times in a forward, expected once"):
        Hooked(twice, ["0"]).with_features(x)


class Passing(nn.Module):
    """Gives what it is given, called with a keyword or in a tuple."""

    def __init__(self, how):
        super().__init__()
        self.inner, self.head, self.how = nn.Identity() if how == "keyword" else InTuple(), nn.Linear(64, CLASSES), how

    def forward(self, x):
        shown = self.inner(input=x) if self.how == "keyword" else self.inner(x)[0]
        return self.head(shown.flatten(1))


class InTuple(nn.Module):
    def forward(self, x):
        return (x,)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("keyword", r"layer 'inner' is called without a tensor as its first argument"),
        ("tuple", r"layer 'inner' gives a tuple, expected a tensor"),
    ],
)
@pytest.mark.parametrize("named", ["layer", "penultimate"])
def test_a_layer_that_takes_or_gives_no_tensor_is_named(x, how, message, named):
    network = Passing(how)
    hooked = Hooked(network, ["inner"]) if named == "layer" else Hooked(network, ["head"], penultimate="inner")
    with pytest.raises(ValueError, match=message):
        hooked.with_features(x)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_an_embedding_that_is_overwritten_is_named(x):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 8), nn.ReLU(True), nn.Linear(8, CLASSES))
    with pytest.raises(ValueError, match="layer '2': its output is overwritten in place by what follows"):
        Hooked(network, ["0"], penultimate="2").with_features(x)
    assert Hooked(network, ["0"]).with_features(x).embedding.min() == 0
    assert Hooked(network, ["0"], penultimate="3").with_features(x).embedding.min() == 0


ATTACKED = ("ARD", "AdaAD", "AdaIAD", "BSS", "IAD", "IADII", "PGDAT", "RSLAD", "SAAD", "TRADES")
SMALL = {
    **{name: {"steps": 1} for name in ATTACKED},
    "AMKD": {"steps": 1, "attack_size": 3},
    "DataFree": {"latent": 8, "width": 8, "adversary_every": 1},
    "CRD": {"negatives": 2, "width": 8},
    "FitNet": {"layer": -1},
    "FT": {"warm_up_epochs": 0},
    "TALD": {"steps": 1, "particles": 2},
}


def is_method(value):
    return isinstance(value, type) and issubclass(value, distill.Method) and not inspect.isabstract(value)


METHODS = {
    name: partial(kind, **SMALL.get(name, {})) for name, kind in sorted(vars(distill).items()) if is_method(kind)
}


def three_steps(name, student, teacher, x):
    parameters = torch.optim.SGD(student.parameters(), lr=0.05)
    distiller = Distiller(
        METHODS[name](), student, teacher, parameters, epochs=1, steps_per_epoch=3, images=3, example=x
    )
    y, index = torch.tensor([0, 1, 2]), torch.arange(3)
    return [distiller.step(x, y, index=index).item() for _ in range(3)]


@pytest.mark.parametrize("name", METHODS)
def test_a_plain_network_with_hooks_serves_every_method(x, name):
    student, teacher = Hooked(plain(0), ["1", "4"]), Hooked(plain(1, width=6).eval(), ["1", "4"])
    before = [parameter.clone() for parameter in student.parameters()]
    assert all(torch.tensor(three_steps(name, student, teacher, x)).isfinite())
    assert any(not torch.equal(mine, old) for mine, old in zip(student.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["AT", "AMKD"])
def test_a_network_without_features_is_told_of_hooks(x, name):
    with pytest.raises(TypeError, match=r"student must have with_features.*distill\.Hooked\(network, layers="):
        three_steps(name, plain(0), staged_teacher().eval(), x)


def test_amkd_without_features_may_compare_logits(x):
    with pytest.raises(TypeError, match=r"or AMKD\(embedding='logits'\)"):
        three_steps("AMKD", plain(0), plain(1).eval(), x)


def students(wrap):
    torch.manual_seed(0)
    student = staged_student()
    torch.manual_seed(1)
    return wrap(student), staged_teacher().eval()


@pytest.mark.parametrize("name", METHODS)
def test_a_wrapped_student_takes_the_same_steps(x, data_parallel, name):
    expected = three_steps(name, *students(lambda student: student), x)
    assert three_steps(name, *students(data_parallel), x) == expected


@pytest.mark.parametrize("name", METHODS)
def test_a_compiled_student_takes_the_same_steps(x, name):
    expected = three_steps(name, *students(lambda student: student), x)
    found = three_steps(name, *students(lambda student: torch.compile(student, backend="eager")), x)
    assert found == pytest.approx(expected, rel=1e-5)


def test_features_of_a_wrapped_network_go_through_its_forward(x, data_parallel):
    """Which is where gradients are synchronised."""
    student, _ = students(lambda student: student)
    wrapped = data_parallel(student)
    calls = []
    wrapped.register_forward_hook(lambda *_: calls.append(1))
    shown = features_of("student", wrapped, x)
    assert len(calls) == 1
    assert torch.equal(shown.logits, student(x))
    assert "forward" not in vars(student)
    loss = distill.AT()(wrapped, students(lambda student: student)[1], Batch(x, torch.tensor([0, 1, 2])))["loss"]
    loss.backward()
    assert len(calls) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_forward_of_the_networks_own_outlives_the_features(x, data_parallel, fails):
    """As the one that torch.compile gives a module, or accelerate for mixed precision."""
    student, teacher = students(lambda student: student)
    usual, calls = student.forward, []

    def own(images):
        calls.append(1)
        return usual(images)

    student.forward = own
    wrapped, batch = data_parallel(student), Batch(x, torch.tensor([0, 1, 2]))
    if fails:
        with pytest.raises(RuntimeError):
            distill.AT()(wrapped, teacher, Batch(x[:, :, 0], batch.y))
    else:
        distill.AT()(wrapped, teacher, batch)
    assert student.forward is own
    calls.clear()
    wrapped(x)
    assert calls == [1]


def test_a_compiled_student_inside_of_a_wrapper_is_whole_after_terms(x, data_parallel):
    student, teacher = students(lambda student: data_parallel(torch.compile(student, backend="eager")))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    Distiller(distill.AT(), student, teacher, optimizer, total_steps=2).terms(x, torch.tensor([0, 1, 2]))
    assert student(x).shape == (3, CLASSES)


def test_terms_of_a_wrapped_student_are_for_parameters_that_it_holds(x, data_parallel):
    student, teacher = students(data_parallel)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    y = torch.tensor([0, 1, 2])
    Distiller(distill.KD(), student, teacher, optimizer, total_steps=2).terms(x, y)["loss"].backward()
    with pytest.raises(RuntimeError, match="FitNet trains parameters that DistributedDataParallel does not hold"):
        Distiller(distill.FitNet(layer=-1), student, teacher, optimizer, total_steps=2).terms(x, y)


class Answering(nn.Module):
    """With an output that holds logits, as those of transformers do."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return {"logits": self.network(x)}


@pytest.mark.parametrize(
    ("inside", "options", "message"),
    [
        (Answering, {}, r"the student gives an output that holds logits; wrap it in fastadv\.attacks\.Logits before"),
        (
            nn.Sequential,
            {"autocast": torch.bfloat16},
            r"autocast=torch\.bfloat16 is for step\(\); enter torch\.autocast",
        ),
        (
            nn.Sequential,
            {"compile": True},
            r"compile=True is for step\(\); pass the student through torch\.compile before",
        ),
    ],
)
def test_terms_of_a_wrapped_student_are_those_of_the_student_as_it_is(x, data_parallel, inside, options, message):
    student, teacher = students(inside)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    distiller = Distiller(distill.KD(), data_parallel(student), teacher, optimizer, total_steps=2, **options)
    with pytest.raises(RuntimeError, match=message):
        distiller.terms(x, torch.tensor([0, 1, 2]))


def test_what_terms_of_a_wrapped_student_ask_for_serves(x, data_parallel):
    student, teacher = students(Answering)
    wrapped = data_parallel(torch.compile(Logits(student, "logits"), backend="eager"))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    distiller = Distiller(distill.KD(), wrapped, teacher, optimizer, total_steps=2)
    seen = []
    student.network.register_forward_hook(lambda module, args, logits: seen.append(logits.dtype))
    distiller.build(x)
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        loss = distiller.terms(x, torch.tensor([0, 1, 2]))["loss"]
    loss.backward()
    assert (loss.dtype, seen) == (torch.float32, [torch.bfloat16])

"""A method in a plain loop: Distiller counts, seeds, builds, warms up, trains adversaries, goes on bit for bit."""

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fastadv import distill
from fastadv.distill import Batch, Distiller
from fastadv.distill.parts import float32_output
from tests.distill.staged import CLASSES, staged_student, staged_teacher

pytestmark = pytest.mark.filterwarnings("ignore:FT warms up first")

SHAPE = (1, 8, 8)
EPOCHS, STEPS = 3, 4


def network(seed, *, classes=CLASSES):
    torch.manual_seed(seed)
    student = staged_student()
    student.fc = nn.Linear(student.fc.in_features, classes)
    return student


def the_teacher():
    torch.manual_seed(1)
    return staged_teacher().eval()


METHODS = {
    "kd": distill.KD,
    "tald": lambda: distill.TALD(steps=1, particles=2, weight=0.5),
    "igdm": lambda: distill.IGDM(distill.RSLAD(steps=1)),
    "amkd": lambda: distill.AMKD(steps=1, attack_size=4),
    "ai-kd": distill.AIKD,
    "data-free": lambda: distill.DataFree(latent=8, width=8, adversary_every=2),
    "crd": lambda: distill.CRD(negatives=4, width=8),
    "ft": lambda: distill.FT(warm_up_epochs=1),
    "at": distill.AT,
    "fitnet": lambda: distill.FitNet(layer=-1),
    "vid": distill.VID,
    "pgd-at": lambda: distill.PGDAT(steps=1),
}


def batches():
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(STEPS * 6, *SHAPE, generator=generator)
    y = torch.randint(CLASSES, (STEPS * 6,), generator=generator)
    index = torch.arange(STEPS * 6)
    return list(zip(x.split(6), y.split(6), index.split(6), strict=True))


def make(name, *, student=None, **options):
    student = network(0) if student is None else student
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    keywords = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "images": STEPS * 6, **options}
    keywords.setdefault("example", torch.zeros(2, *SHAPE))
    return Distiller(METHODS[name](), student, the_teacher(), optimizer, **keywords)


def losses(distiller, steps=None):
    found, rows = [], batches()
    while not distiller.finished and (steps is None or len(found) < steps):
        x, y, index = rows[distiller.stage.done % STEPS]
        found.append(distiller.step(x, y, index=index).item())
    return found


@pytest.mark.filterwarnings("ignore:IGDM")
@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_loop_goes_on_bit_for_bit(name):
    whole = make(name)
    expected = losses(whole)
    assert len(expected) == whole.total_steps == EPOCHS * STEPS + (STEPS if name == "ft" else 0)
    first = make(name)
    begun = losses(first, 7)
    saved = copy.deepcopy((first.model.state_dict(), first.state_dict()))
    student = network(9)
    student.load_state_dict(saved[0])
    # Built by the state, whatever the first batch is, and whatever the global generator holds.
    torch.manual_seed(12345)
    second = make(name, student=student, example=None)
    second.load_state_dict(saved[1])
    assert begun + losses(second) == expected
    for mine, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_method_by_hand_does_what_distiller_does():
    """KD as in any loop: the same losses, with progress and seeds that it does not need."""
    student, teacher = network(0), the_teacher()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    expected, method = [], distill.KD()
    for _ in range(EPOCHS):
        for x, y, _ in batches():
            loss = method(student, teacher, Batch(x, y))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    assert losses(make("kd")) == pytest.approx(expected, rel=1e-6)


def test_progress_rises_and_every_step_has_its_seed():
    seen = []

    class Watching(distill.KD):
        def forward(self, student, teacher, batch):
            seen.append((batch.progress, batch.seed))
            return super().forward(student, teacher, batch)

    student = network(0)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    losses(Distiller(Watching(), student, the_teacher(), optimizer, epochs=EPOCHS, steps_per_epoch=STEPS))
    assert [progress for progress, _ in seen] == [step / (EPOCHS * STEPS) for step in range(EPOCHS * STEPS)]
    assert len({seed for _, seed in seen}) == EPOCHS * STEPS


@pytest.mark.parametrize("name", ["ai-kd", "data-free", "tald", "fitnet"])
def test_terms_and_a_backward_of_ones_own_are_the_same_step(name):
    expected = losses(make(name))
    distiller, found = make(name), []
    for _ in range(EPOCHS):
        for x, y, index in batches():
            loss = distiller.terms(x, y, index=index)["loss"]
            distiller.optimizer.zero_grad()
            loss.backward()
            distiller.optimizer.step()
            distiller.stepped()
            found.append(loss.item())
    assert found == pytest.approx(expected, rel=1e-5)


def test_terms_and_stepped_come_in_turn():
    distiller, (x, y, _) = make("kd"), batches()[0]
    with pytest.raises(RuntimeError, match=r"stepped\(\) follows terms\(\)"):
        distiller.stepped()
    distiller.terms(x, y)
    again = r"call stepped\(\) after each step of your optimizer, or step_on\(\) for one step on several parts"
    with pytest.raises(RuntimeError, match=again):
        distiller.terms(x, y)
    with pytest.raises(RuntimeError, match=r"FT warms up first: call step\(\) for 4 steps"):
        make("ft").terms(x, y)


def test_the_adversary_and_own_parameters_are_trained_and_scheduled():
    distiller = make("ai-kd")
    before = copy.deepcopy(distiller.method.adversary.state_dict())
    losses(distiller, 1)
    assert any(not torch.equal(value, before[name]) for name, value in distiller.method.adversary.state_dict().items())
    distiller.optimizer.param_groups[0]["lr"] *= 0.25
    losses(distiller, 1)
    assert distiller._steps["adversary"].rate == pytest.approx(distiller.method.adversary_lr / 4)
    own = list(make("fitnet").method.own_parameters())
    (group,) = make("fitnet").optimizer.param_groups
    assert len(own) > 0
    assert len(group["params"]) == len(list(network(0).parameters())) + len(own)


@pytest.mark.parametrize("first", ["schedule", "distiller"])
def test_the_adversarys_rate_follows_a_schedule_from_its_peak(first):
    """OneCycleLR starts at a 25th of its largest rate, which is that of the student."""
    student = network(0)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)

    def schedules():
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=EPOCHS * STEPS)

    schedule = schedules() if first == "schedule" else None
    method = distill.AIKD()
    distiller = Distiller(method, student, the_teacher(), optimizer, epochs=EPOCHS, steps_per_epoch=STEPS)
    schedule = schedule or schedules()
    for step in range(EPOCHS * STEPS):
        share = optimizer.param_groups[0]["lr"] / 0.2
        losses(distiller, 1)
        assert distiller._steps["adversary"].rate == pytest.approx(method.adversary_lr * share)
        if step + 1 < EPOCHS * STEPS:
            schedule.step()


def test_an_adversary_cannot_follow_a_rate_of_nothing():
    student = network(0)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    x, y, _ = batches()[0]
    message = r"optimizer must have a learning rate above 0 for AIKD, whose adversary's follows it, got 0\.0"
    with pytest.raises(ValueError, match=message):
        Distiller(distill.AIKD(), student, the_teacher(), optimizer, epochs=1, steps_per_epoch=2)
    Distiller(distill.KD(), student, the_teacher(), optimizer, total_steps=2).step(x, y)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_parameters_thawed_and_frozen_on_the_way_are_trained_as_they_are(clip_norm):
    student = network(0)
    student.stages.requires_grad_(False)
    distiller, (x, y, _) = make("kd", student=student, clip_norm=clip_norm), batches()[0]
    stem, head = student.stages[0][0].weight, student.fc.weight

    def moved():
        before = [each.detach().clone() for each in (stem, head)]
        distiller.step(x, y)
        return [not torch.equal(each, old) for each, old in zip((stem, head), before, strict=True)]

    assert moved() == [False, True]
    student.stages.requires_grad_(True)
    assert moved() == [True, True]
    student.fc.requires_grad_(False)
    assert moved() == [True, False]


def test_generators_of_other_devices_are_left_alone(monkeypatch):
    distiller, reseeded = make("tald", example=None), []
    for module in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(module, name, reseeded.append, raising=False)
    losses(distiller, 2)
    assert reseeded == []


def test_a_step_on_a_device_seeds_its_generator_and_leaves_it_as_it_was(monkeypatch):
    distiller, devices = make("tald", example=None), (torch.Generator(), torch.Generator())
    monkeypatch.setattr(torch.cuda, "default_generators", devices)
    distiller._device = torch.device("cuda", 1)
    before = [each.get_state() for each in (torch.default_generator, *devices)]
    with distiller._seeded("step", 0):
        inside = [each.initial_seed() for each in (torch.default_generator, *devices)]
    assert inside[0] == inside[2] != inside[1]
    for each, state in zip((torch.default_generator, *devices), before, strict=True):
        assert torch.equal(each.get_state(), state)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(4)
    expected = torch.rand(2)
    distiller = make("tald", example=None)
    torch.manual_seed(4)
    losses(distiller, 2)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", METHODS)
def test_other_numbers_of_classes_are_named_by_every_method(name):
    student = network(0, classes=CLASSES + 2)
    if name == "pgd-at":
        make(name, student=student)  # looks at no teacher's logits
        return
    with pytest.raises(ValueError, match=r"same number of classes, got 6 and 4"):
        make(name, student=student)


@pytest.mark.parametrize("kind", ["AdamW", "Adam", "SGD", "RMSprop"])
def test_a_warm_up_has_an_optimizer_like_the_students(kind):
    student = network(0)
    optimizer = getattr(torch.optim, kind)(student.parameters(), lr=0.01, weight_decay=0.25)
    with pytest.warns(UserWarning, match="FT warms up first"):
        distiller = Distiller(METHODS["ft"](), student, the_teacher(), optimizer, epochs=1, steps_per_epoch=1)
    distiller.step(*batches()[0][:2])
    warming = distiller._steps["warm-up"].optimizer
    assert type(warming) is type(optimizer)
    assert warming.defaults == optimizer.defaults


def test_a_warm_up_that_the_loop_may_not_know_of_is_told():
    student = network(0)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    message = r"FT warms up first: 8 steps come before the 12 of training; loop while not distiller\.finished"
    given = {"epochs": EPOCHS, "steps_per_epoch": STEPS}
    with pytest.warns(UserWarning, match=message):
        Distiller(distill.FT(warm_up_epochs=2), student, the_teacher(), optimizer, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = partial(torch.optim.SGD, lr=0.01)
        Distiller(METHODS["ft"](), student, the_teacher(), optimizer, warm_up_optimizer=known, **given)
        Distiller(distill.FT(warm_up_epochs=0), student, the_teacher(), optimizer, **given)


@pytest.mark.parametrize("name", ["ai-kd", "amkd"])
def test_a_method_begins_anew_with_each_student(name):
    """The second run of one object is the first of another."""
    method, shape = METHODS[name](), torch.zeros(2, *SHAPE)
    found = []
    for kind in (method, method, METHODS[name]()):
        student, twin = network(0), network(1).eval()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
        given = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "example": shape}
        # The first teacher's embeddings are longer than the student's.
        teacher = the_teacher() if not found else twin
        found.append((losses(Distiller(kind, student, teacher, optimizer, **given)), list(kind.state_dict())))
    assert found[1] == found[2]
    assert found[0] != found[1]


NEEDS = {"tald": "seed", "igdm": "seed", "amkd": "progress", "ai-kd": "progress", "data-free": "seed", "crd": "seed"}


@pytest.mark.filterwarnings("ignore:IGDM")
@pytest.mark.parametrize("name", NEEDS)
def test_a_batch_without_what_the_method_needs_is_refused(name):
    distiller, (x, y, index) = make(name), batches()[0]
    with pytest.raises(ValueError, match=rf"needs Batch\({NEEDS[name]}=\.\.\.\).*Distiller counts steps for you"):
        distiller.method(distiller.student, distiller.teacher, Batch(x, y, index=index))


@pytest.mark.parametrize("progress", [5, -0.1, float("nan")])
@pytest.mark.parametrize("name", ["dkd", "igdm"])
@pytest.mark.filterwarnings("ignore:IGDM")
def test_progress_is_a_share(name, progress):
    method = distill.DKD(ramp=0.1) if name == "dkd" else METHODS[name]()
    x, y, index = batches()[0]
    message = rf"progress must lie in \[0, 1\], the share of training that is done: epoch / epochs, got {progress}"
    with pytest.raises(ValueError, match=message):
        method(network(0), the_teacher(), Batch(x, y, progress=progress, seed=0, index=index))


def test_what_is_missing_is_named():
    student, teacher = network(0), the_teacher()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="total_steps, or epochs and steps_per_epoch, must be given"):
        Distiller(distill.KD(), student, teacher, optimizer)
    with pytest.raises(ValueError, match="steps_per_epoch must be given for AIKD, which counts epochs"):
        Distiller(distill.AIKD(), student, teacher, optimizer, total_steps=5)
    with pytest.raises(TypeError, match="teacher must be a network for KD, got None"):
        Distiller(distill.KD(), student, None, optimizer, total_steps=5)
    with pytest.raises(TypeError, match="student must be a Module, got function"):
        Distiller(distill.KD(), lambda x: x, teacher, optimizer, total_steps=5)
    with pytest.raises(TypeError, match="seed must be an int, got NoneType"):
        Distiller(distill.KD(), student, teacher, optimizer, total_steps=5, seed=None)
    with pytest.raises(ValueError, match=r"steps_per_epoch must be given with epochs, got epochs=10 alone"):
        Distiller(distill.KD(), student, teacher, optimizer, total_steps=100, epochs=10)
    with pytest.raises(ValueError, match=r"total_steps must be at least 1, got 0"):
        Distiller(distill.KD(), student, teacher, optimizer, total_steps=0, epochs=10, steps_per_epoch=2)
    with pytest.raises(ValueError, match=r"epochs must be at least 1, got 0"):
        Distiller(distill.KD(), student, teacher, optimizer, epochs=0, steps_per_epoch=2)
    for over in (lambda method: method, distill.TALD):
        with pytest.raises(ValueError, match=r"images must be given for \w+, which remembers each of them"):
            Distiller(over(METHODS["crd"]()), student, teacher, optimizer, total_steps=5)
    with pytest.raises(ValueError, match=r"images must be at least 1, got 0"):
        Distiller(METHODS["crd"](), student, teacher, optimizer, total_steps=5, images=0)
    for clip_norm in (-1.0, 0.0):
        with pytest.raises(ValueError, match=rf"clip_norm must be positive and finite, got {clip_norm}"):
            Distiller(distill.KD(), student, teacher, optimizer, total_steps=5, clip_norm=clip_norm)
    distiller = Distiller(distill.KD(), student, teacher, optimizer, total_steps=1)
    x, y, _ = batches()[0]
    distiller.step(x, y)
    with pytest.raises(RuntimeError, match="all 1 steps are done"):
        distiller.step(x, y)


LABEL_FREE = {
    "rslad": lambda: distill.RSLAD(steps=1),
    "adaad": lambda: distill.AdaAD(steps=1),
    "igdm over rslad": lambda: distill.IGDM(distill.RSLAD(steps=1)),
    "data-free": METHODS["data-free"],
}
LABELLED = {
    **{name: METHODS[name] for name in ("kd", "tald", "at", "pgd-at")},
    "ard": lambda: distill.ARD(steps=1),
    "adaad, student": lambda: distill.AdaAD(inner="student", steps=1),
    "adaad, linear": lambda: distill.AdaAD(inner="linear", steps=1),
    "adaiad": lambda: distill.AdaIAD(steps=1),
    "igdm over trades": lambda: distill.IGDM(distill.TRADES(steps=1)),
}


@pytest.mark.filterwarnings("ignore:IGDM")
@pytest.mark.parametrize("call", ["step", "terms"])
@pytest.mark.parametrize("name", [*LABEL_FREE, *LABELLED])
def test_classes_may_be_left_out_where_the_method_looks_at_none(name, call):
    """Their values are not checked on a device, where an attack on a class that is none would move nothing."""
    student, x = network(0), batches()[0][0]
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    method = {**LABEL_FREE, **LABELLED}[name]()
    take = getattr(Distiller(method, student, the_teacher(), optimizer, total_steps=2), call)
    if name in LABEL_FREE:
        found = take(x)
        assert torch.as_tensor(found["loss"] if call == "terms" else found).isfinite()
        return
    with pytest.raises(TypeError, match=rf"y must be the classes \[N\] of x for {type(method).__name__}, got None"):
        take(x)


class Output(dict):
    """As transformers' outputs: a mapping whose entries are attributes."""

    __getattr__ = dict.__getitem__


class WithOutput(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return Output(loss=None, logits=self.network(x))


def test_outputs_that_hold_logits_are_understood():
    expected = losses(make("kd"))
    student = WithOutput(network(0))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    teacher = WithOutput(the_teacher())
    distiller = Distiller(distill.KD(), student, teacher, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS)
    assert losses(distiller) == expected


@pytest.mark.filterwarnings("ignore:IGDM")
@pytest.mark.parametrize("name", ["ai-kd", "igdm", "pgd-at frozen", "tald"])
@pytest.mark.parametrize("flat", [False, True])
def test_methods_are_built_with_such_networks_too(name, flat):
    """The same losses as of networks that give logits, of images and of vectors."""

    def found(wrapped):
        method = distill.PGDAT(steps=1, attack_mode="frozen") if name == "pgd-at frozen" else METHODS[name]()
        torch.manual_seed(0)
        networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)) for _ in range(2)]
        student, teacher = map(WithOutput, networks) if wrapped else networks
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
        distiller = Distiller(method, student, teacher, optimizer, epochs=2, steps_per_epoch=STEPS)
        return [distiller.step(x.flatten(1) if flat else x, y).item() for x, y, _ in batches() * 2]

    assert found(wrapped=True) == found(wrapped=False)


def test_an_epoch_whose_first_step_failed_begins_once():
    (x, y, _), *_ = batches()
    distiller, resumed = make("ai-kd"), make("ai-kd")
    with pytest.raises(ValueError, match=r"y must have shape \[6\], got \[5\]"):
        distiller.step(x, y[:5])
    resumed.load_state_dict(distiller.state_dict())
    for each in (distiller, resumed):
        each.step(x, y)
        assert each.method.get_extra_state() == 1


@pytest.mark.parametrize("outside", [lambda network: network, WithOutput], ids=["logits", "an output"])
def test_the_callers_autocast_holds_inside_the_networks(outside):
    student, teacher = network(0), the_teacher()
    seen = []
    for each in (student, teacher):
        each.fc.register_forward_hook(lambda module, args, logits: seen.append(logits.dtype))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    x, y, _ = batches()[0]
    distiller = Distiller(distill.ARD(steps=1), outside(student), outside(teacher), optimizer, total_steps=2, example=x)
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        terms = distiller.terms(x, y)
    assert len(seen) > 2
    assert set(seen) == {torch.bfloat16}
    assert terms["loss"].dtype == torch.float32


@pytest.mark.parametrize("options", [{}, {"compile": True}])
def test_double_precision_stays(options, monkeypatch):
    monkeypatch.setattr(float32_output, "compiled_whole", lambda function: function)
    student, teacher = WithOutput(network(0)).double(), WithOutput(the_teacher()).double()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    x, y, _ = batches()[0]
    distiller = Distiller(distill.KD(), student, teacher, optimizer, total_steps=2, **options)
    assert distiller.step(x.double(), y).dtype == torch.float64


def test_a_step_on_parts_is_the_step_on_the_whole():
    """Without batch statistics."""
    found = []
    for cut in ((6,), (4, 2)):
        torch.manual_seed(0)
        student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)) for _ in range(2))
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
        distiller = Distiller(distill.KD(), student, teacher, optimizer, total_steps=2)
        parts = zip(*(each.split(cut) for each in batches()[0]), strict=True)
        terms = distiller.step_on([distill.MicroBatch(*part, len(part[0]) / 6, i) for i, part in enumerate(parts)])
        found.append((terms.student["loss"], student[1].weight.detach()))
    torch.testing.assert_close(*found)


def test_low_precision_computes_losses_in_float32():
    found = losses(make("tald", autocast=torch.bfloat16), 4)
    assert found == pytest.approx(losses(make("tald"), 4), rel=0.05)
    assert found != losses(make("tald"), 4)


def test_a_student_of_ones_own_learns():
    """The whole of a user's loop, on what a linear network can tell apart."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (64,), generator=generator)
    x = (torch.rand(64, 1, 4, 4, generator=generator) * 0.5 + 0.5 * y[:, None, None, None]).clamp(0, 1)
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        teacher[1].weight.copy_(torch.stack((-torch.ones(16), torch.ones(16))))
        teacher[1].bias.copy_(torch.tensor([8.0, -8.0]))
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    distiller = Distiller(
        distill.TALD(steps=2, particles=2),
        student,
        teacher,
        torch.optim.SGD(student.parameters(), lr=0.5),
        total_steps=40,
    )
    before = cross_entropy(student(x), y).item()
    while not distiller.finished:
        distiller.step(x, y)
    assert cross_entropy(student(x), y).item() < 0.7 * before
    assert (student(x).argmax(1) == y).float().mean() > 0.9

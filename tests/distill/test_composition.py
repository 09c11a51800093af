"""TALD over every base loss, and what every base loss promises a training loop."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

import fastadv
from fastadv.distill import AT, CRD, DKD, FT, KD, RKD, SP, TALD, VID, Batch, CrossEntropy, FitNet, TripletKD
from tests.attacks.host_reads import HostReads
from tests.distill.staged import staged_student, staged_teacher

compiled = pytest.mark.skipif(
    fastadv.backends()["cpu"] != "available", reason="the reference looks at targets with operations of its own"
)
N, IMAGES = 6, 20
BASES = {
    "ce": CrossEntropy,
    "kd": KD,
    "dkd": DKD,
    "triplet": TripletKD,
    "rkd": RKD,
    "fitnet": FitNet,
    "at": AT,
    "sp": SP,
    "vid": VID,
    "ft": FT,
    "crd": lambda: CRD(negatives=8, width=5),
}
every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)
ALONE_AND_UNDER_TALD = [
    pytest.param(under(base), id=f"{prefix}{name}")
    for name, base in BASES.items()
    for prefix, under in (("", lambda base: base), ("tald-", lambda base: lambda: over(base())))
]
every_method = pytest.mark.parametrize("method", ALONE_AND_UNDER_TALD)


def over(base):
    return TALD(base, weight=0.3, particles=2, steps=1, eps=0.1)


def set_up(make, *, device="cpu", dtype=torch.float32):
    """A built method, its student, its teacher and a batch."""
    method, student, teacher = make(), staged_student().to(device, dtype), staged_teacher().to(device, dtype)
    x = torch.rand(N, 1, 8, 8).to(device, dtype)
    y, index = torch.tensor([0, 1, 2, 3, 0, 1]).to(device), torch.tensor([3, 19, 0, 7, 8, 2]).to(device)
    method.build(student, teacher, x, images=IMAGES)
    student.rows.clear(), teacher.rows.clear()
    return method, student, teacher, Batch(x, y, 0.5, 3, index)


@every_base
def test_tald_over_it(base):
    method, student, teacher, batch = set_up(lambda: over(base()))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    terms = method(student, teacher, batch)
    assert list(terms) == ["loss", method.base.term, "tald", "repulsion"]
    assert all(term.isfinite() for term in terms.values())
    torch.testing.assert_close(terms["loss"].detach(), terms[method.base.term] + 0.3 * terms["tald"])
    # One forward of [particles; clean images] each, after the teacher's one step of attack.
    assert (student.rows, teacher.rows) == ([N * 3], [N * 2, N * 3])

    terms["loss"].backward()
    trained = [*student.parameters(), *method.own_parameters()]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(module.training for module in teacher.modules())
    torch.testing.assert_close(dict(teacher.state_dict()), before, atol=0, rtol=0)


@every_base
def test_tald_gives_it_the_clean_images(base):
    """In eval mode, where a batch's other images change nothing, TALD's base term is the base loss alone."""
    method, student, teacher, batch = set_up(lambda: over(base()))
    student.eval()
    alone = copy.deepcopy(method.base)
    expected = alone(student, teacher, batch)["loss"].detach()
    torch.testing.assert_close(method(student, teacher, batch)[method.base.term], expected)
    torch.testing.assert_close(method.base.state_dict(), alone.state_dict())


def test_tald_forwards_the_warm_up_of_its_base():
    method, student, teacher, batch = set_up(lambda: over(FT(warm_up_epochs=4)))
    assert method.warm_up_epochs == 4
    assert over(KD()).warm_up_epochs == 0
    warm, own = list(method.warm_up_parameters()), list(method.own_parameters())
    assert warm == list(method.base.warm_up_parameters())
    assert own == list(method.base.own_parameters())
    method.warm_up_terms(teacher, batch)["loss"].backward()
    assert all(parameter.grad is not None for parameter in warm)
    assert student.rows == []


def test_tald_tells_its_base_that_an_epoch_starts():
    class Watching(KD):
        epochs = 0

        def start_epoch(self, student):
            self.epochs += 1

    method = over(Watching())
    method.start_epoch(staged_student())
    assert method.base.epochs == 1


@every_method
def test_a_saved_state_gives_the_same_next_loss(method):
    first, student, teacher, batch = set_up(method)
    first(student, teacher, batch)["loss"].backward()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    second = method()
    second.build(student, teacher, batch.x, images=IMAGES)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    student.eval()
    later = Batch(batch.x.flip(0), batch.y, 0.6, 4, batch.index + 1 - 2 * (batch.index % 2))
    losses = [each(student, teacher, later)["loss"] for each in (first, second)]
    assert torch.equal(*losses)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), atol=0, rtol=0)


@compiled
@every_method
def test_nothing_waits_for_the_device(method, as_on_a_device):
    method, student, teacher, batch = set_up(method)
    with HostReads() as reads:
        method(student, teacher, batch)
    assert reads.found == []


@every_base
def test_no_value_is_read_back(base):
    """On the meta device there is no value to read."""
    method, student, teacher, batch = set_up(lambda: over(base()), device="meta")
    terms = method(student, teacher, batch)
    terms["loss"].backward()
    assert terms["loss"].is_meta


@every_base
def test_half_precision(base):
    method, student, teacher, batch = set_up(lambda: over(base()))
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(student, teacher, batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in (*student.parameters(), *method.own_parameters()))

    method, student, teacher, batch = set_up(lambda: over(base()), dtype=torch.bfloat16)
    loss = method(student, teacher, batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in method.parameters())


@every_base
def test_double_precision_stays(base):
    method, student, teacher, batch = set_up(base, dtype=torch.float64)
    assert method(student, teacher, batch)["loss"].dtype == torch.float64


def test_the_global_random_state_is_left_alone_in_a_step():
    for base in BASES.values():
        method, student, teacher, batch = set_up(base)
        before = torch.get_rng_state()
        method(student, teacher, batch)
        assert torch.equal(torch.get_rng_state(), before)


def test_plain_training_in_half_precision_has_a_float32_loss():
    logits = torch.randn(4, 3).bfloat16()
    loss = CrossEntropy()(
        lambda x: logits, None, Batch(torch.rand(4, 2), torch.tensor([0, 1, 2, 0]), progress=0.0, seed=0)
    )["loss"]
    torch.testing.assert_close(loss, cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0])))

"""AIKD: its losses by hand, its snapshot, its discriminator, and how little it runs the networks."""

import copy

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, log_softmax, softmax

import fastadv
from fastadv.distill import AIKD, Batch
from tests.attacks.host_reads import HostReads

ALONE = {"alpha": 0.0, "beta": 0.0, "omega": 0.0}


def built(student, teacher, batch, *, epochs=0, **options):
    method = AIKD(**options)
    method.build(student, teacher, batch[0], images=len(batch[0]))
    for _ in range(epochs):
        method.start_epoch(student)
    student.rows.clear()
    return method


def run(method, student, teacher, batch, progress=0.5):
    return method(student, teacher, Batch(*batch, progress=progress, seed=0))


def soft(student, teacher, temperature):
    divergence = kl_div(log_softmax(student / temperature, 1), softmax(teacher / temperature, 1), reduction="batchmean")
    return temperature**2 * divergence


def discriminate(discriminator, logits):
    """The scores [N] with the layers written out."""
    hidden = logits
    for layer in discriminator.layers[0:4:2]:
        hidden = hidden @ layer.weight.T + layer.bias
        hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    return (hidden @ discriminator.layers[4].weight.T + discriminator.layers[4].bias)[:, 0]


@pytest.mark.parametrize(
    "options",
    [
        ALONE,
        {},
        {"alpha": 0.0, "omega": 0.0, "temperature": 2.0},
        {"alpha": 0.3, "beta": 0.0, "omega": 0.7, "discriminator_input": "probabilities"},
        {"alpha": 0.0, "beta": 0.0, "omega": 0.7, "adversarial_loss": "wgan"},
    ],
)
def test_loss_of_the_student_by_hand(student, teacher, batch, options):
    x, y = batch[0].double(), batch[1]
    student, teacher = student.double(), teacher.double()
    method = built(student, teacher, (x, y), epochs=2, **options)
    previous = copy.deepcopy(student).eval()
    with torch.no_grad():
        student.layers[4].weight += 0.5
    by_hand = copy.deepcopy(student)
    terms = run(method, student, teacher, (x, y))
    terms["loss"].backward()

    logits, target = by_hand(x), teacher.eval()(x).detach()
    temperature = method.temperature
    expected = {"ce": cross_entropy(logits, y)}
    loss = expected["ce"]
    if method.alpha:
        expected["deterministic"] = soft(logits, target, temperature)
        loss = loss + method.alpha * expected["deterministic"]
    if method.beta:
        expected["progressive"] = soft(logits, previous(x).detach(), temperature)
        loss = loss + 0.8 * 0.5 * expected["progressive"]
    if method.omega:
        seen = softmax(logits, 1) if method.probabilities else logits
        score = discriminate(method.adversary, seen)
        wgan = options.get("adversarial_loss") == "wgan"
        adversarial = -score.mean() if wgan else binary_cross_entropy_with_logits(score, torch.ones(5).double())
        expected["adversarial"] = adversarial
        loss = loss + method.omega * adversarial
    torch.testing.assert_close(terms, {"loss": loss, **expected})
    assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]
    gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
    torch.testing.assert_close([parameter.grad for parameter in student.parameters()], list(gradients))


@pytest.mark.parametrize("adversarial_loss", ["bce", "wgan"])
def test_loss_of_the_discriminator_by_hand(student, teacher, batch, adversarial_loss):
    method = built(student, teacher, batch, adversarial_loss=adversarial_loss)
    step = Batch(*batch, progress=0.0, seed=0)
    expected_student = copy.deepcopy(student)(batch[0])
    method(student, teacher, step)
    terms = method.adversary_terms(student, teacher, step)
    real = discriminate(method.adversary, teacher.eval()(batch[0]))
    fake = discriminate(method.adversary, expected_student)
    if adversarial_loss == "wgan":
        expected = fake.mean() - real.mean()
    else:
        expected = binary_cross_entropy_with_logits(real, torch.ones(5))
        expected = expected + binary_cross_entropy_with_logits(fake, torch.zeros(5))
    torch.testing.assert_close(terms, {"loss": expected})


def test_the_discriminator_learns_and_the_student_answers(student, teacher, batch):
    method = built(student, teacher, batch, alpha=0.0, beta=0.0, omega=1.0, adversary_lr=1e-2)
    optimizer, step = method.adversary_optimizer(), Batch(*batch, progress=0.0, seed=0)
    student.eval()
    losses = []
    for _ in range(20):
        terms = method.adversary_terms(student, teacher, step)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert losses[-1] < 0.8 * losses[0]
    before = run(method, student, teacher, batch)["adversarial"]
    (run(method, student, teacher, batch)["loss"]).backward()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter -= 0.01 * parameter.grad
    assert run(method, student, teacher, batch)["adversarial"] < before


def test_gradients_reach_whom_they_are_for(student, teacher, batch):
    method = built(student, teacher, batch, epochs=2)
    assert list(method.own_parameters()) == []
    step = Batch(*batch, progress=0.5, seed=0)
    method(student, teacher, step)["loss"].backward()
    discriminator, others = list(method.adversary.parameters()), [*teacher.parameters(), *method.previous.parameters()]
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in (*discriminator, *others))
    assert all(parameter.requires_grad for parameter in discriminator)

    student.zero_grad()
    for rival in (step, Batch(batch[0].clone(), batch[1], progress=0.0, seed=0)):
        method.adversary.zero_grad()
        method.adversary_terms(student, teacher, rival)["loss"].backward()
        assert all(parameter.grad is not None for parameter in discriminator)
        assert all(parameter.grad is None for parameter in (*student.parameters(), *others))


@pytest.mark.parametrize("first_epoch", ["teacher", "drop"])
def test_the_snapshot_is_the_student_at_the_end_of_the_last_epoch(student, teacher, batch, first_epoch):
    method = built(student, teacher, batch, alpha=0.0, omega=0.0, first_epoch=first_epoch)
    x = batch[0]
    student.eval()

    def progressive():
        return run(method, student, teacher, batch)["progressive"]

    of_teacher = soft(student(x), teacher.eval()(x), 4.0) if first_epoch == "teacher" else torch.tensor(0.0)
    torch.testing.assert_close(progressive(), of_teacher)
    method.start_epoch(student)
    torch.testing.assert_close(progressive(), of_teacher)
    with torch.no_grad():
        student.layers[4].weight += 0.5
        student.layers[1].running_mean += 0.1
    method.start_epoch(student)
    at_its_end = student(x)
    assert progressive().abs() < 1e-5
    with torch.no_grad():
        student.layers[4].weight *= 2
    torch.testing.assert_close(progressive(), soft(student(x), at_its_end, 4.0))


def test_the_weight_of_the_previous_epoch_grows(student, teacher, batch):
    method = built(student, teacher, batch, epochs=2, alpha=0.0, beta=0.6, omega=0.0)
    with torch.no_grad():
        student.eval().layers[4].weight *= 2
    for progress in (0.0, 0.25, 0.9):
        terms = run(method, student, teacher, batch, progress)
        torch.testing.assert_close(terms["loss"] - terms["ce"], 0.6 * progress * terms["progressive"])


@pytest.mark.parametrize(
    ("options", "teacher_runs", "previous_runs"),
    [
        ({}, 1, 1),
        (ALONE, 0, 0),
        ({"beta": 0.0}, 1, 0),
        ({"alpha": 0.0, "omega": 0.0}, 0, 1),
        ({"alpha": 0.0}, 1, 1),
    ],
)
def test_forward_passes_of_a_step(student, teacher, batch, options, teacher_runs, previous_runs):
    method = built(student, teacher, batch, epochs=2, **options)
    assert method.adversary_every == 1 if options.get("omega", 1) else method.adversary_every > 2**31
    step = Batch(*batch, progress=0.0, seed=0)
    method(student, teacher, step)
    if method.omega:
        method.adversary_terms(student, teacher, step)
    assert student.rows == [5]
    assert teacher.rows == [5] * teacher_runs
    assert any(True for _ in method.previous.parameters()) == bool(method.beta)
    if method.beta:
        assert method.previous.rows[-previous_runs:] == [5] * previous_runs


@pytest.mark.parametrize(("options", "runs"), [({}, 1), ({"alpha": 0.0, "first_epoch": "drop", "omega": 0.0}, 0)])
def test_forward_passes_in_the_first_epoch(student, teacher, batch, options, runs):
    method = built(student, teacher, batch, epochs=1, **options)
    run(method, student, teacher, batch)
    assert teacher.rows == [5] * runs


def test_the_discriminator_asks_again_about_other_images(student, teacher, batch):
    method = built(student, teacher, batch)
    step, other = Batch(*batch, progress=0.0, seed=0), Batch(batch[0].flip(0), batch[1], progress=0.0, seed=0)
    method(student, teacher, step)
    teacher.rows.clear()
    student.rows.clear()
    method.adversary_terms(student, teacher, other)
    assert (student.rows, teacher.rows) == ([5], [5])
    method.adversary_terms(student, teacher, step)
    assert (student.rows, teacher.rows) == ([5, 5], [5, 5])


def test_networks_keep_their_modes_and_statistics(student, teacher, batch):
    method = built(student, teacher, batch, epochs=2)
    method.train()
    teacher.layers[1].eval()
    frozen = teacher, method.previous
    flags = [[module.training for module in network.modules()] for network in frozen]
    before = copy.deepcopy([network.state_dict() for network in frozen])
    state = torch.get_rng_state()
    step = Batch(*batch, progress=0.0, seed=0)
    method(student, teacher, step)
    method.adversary_terms(student, teacher, step)
    assert [[module.training for module in network.modules()] for network in frozen] == flags
    torch.testing.assert_close([network.state_dict() for network in frozen], before, atol=0, rtol=0)
    assert student.layers[1].num_batches_tracked == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_wgan_clips_the_discriminator(student, teacher, batch):
    method = built(student, teacher, batch, adversarial_loss="wgan", clip=0.02, adversary_lr=1.0)
    optimizer = method.adversary_optimizer()
    for _ in range(2):
        assert all(parameter.abs().max() <= 0.02 for parameter in method.adversary.parameters())
        method.adversary_terms(student, teacher, Batch(*batch, progress=0.0, seed=0))["loss"].backward()
        optimizer.step()
    assert any((parameter.abs() == torch.tensor(0.02)).any() for parameter in method.adversary.parameters())
    free = built(student, teacher, batch)
    assert any(parameter.abs().max() > 0.02 for parameter in free.adversary.parameters())


def test_another_method_loaded_with_the_state_goes_on(student, teacher, batch):
    student.eval()
    method = built(student, teacher, batch, epochs=2)
    with torch.no_grad():
        student.layers[4].weight += 0.5
    other = built(student, teacher, batch)
    other.load_state_dict(method.state_dict())
    terms = [run(each, student, teacher, batch) for each in (method, other)]
    torch.testing.assert_close(*terms, atol=0, rtol=0)
    step = Batch(*batch, progress=0.0, seed=0)
    rivals = [each.adversary_terms(student, teacher, step)["loss"] for each in (method, other)]
    assert rivals[0] == rivals[1]
    assert run(built(student, teacher, batch), student, teacher, batch)["loss"] != terms[0]["loss"]


@pytest.mark.parametrize("options", [{}, {"adversarial_loss": "wgan", "discriminator_input": "probabilities"}])
def test_no_value_is_read_back(student, teacher, batch, options):
    """On the meta device there is no value to read; the probe sees what copies from it."""
    student, teacher, batch = student.to("meta"), teacher.to("meta"), tuple(tensor.to("meta") for tensor in batch)
    method = built(student, teacher, batch, epochs=2, **options)
    step = Batch(*batch, progress=0.5, seed=0)
    with HostReads() as probe:
        assert method(student, teacher, step)["loss"].is_meta
        assert method.adversary_terms(student, teacher, step)["loss"].is_meta
        method.start_epoch(student)
    assert probe.found == []


@pytest.mark.skipif(fastadv.backends()["cpu"] != "available", reason="the reference looks at its arguments")
def test_a_step_has_nothing_for_the_host_to_read(student, teacher, batch):
    method = built(student, teacher, batch, epochs=2)
    step = Batch(*batch, progress=0.5, seed=0)
    with HostReads() as probe:
        method(student, teacher, step)
        method.adversary_terms(student, teacher, step)
    assert probe.found == []


def test_half_precision(student, teacher, batch):
    method = built(student, teacher, batch, epochs=2)
    step = Batch(*batch, progress=0.5, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(student, teacher, step)
        rival = method.adversary_terms(student, teacher, step)
    assert all(term.dtype is torch.float32 for term in (*terms.values(), *rival.values()))
    (terms["loss"] + rival["loss"]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature must be positive"),
        ({"alpha": -1.0}, ValueError, "alpha must not be negative"),
        ({"beta": "0.8"}, TypeError, "beta must be a float, got str"),
        ({"omega": float("nan")}, ValueError, "omega must be a number, got nan"),
        ({"first_epoch": "student"}, ValueError, "first_epoch must be one of 'teacher', 'drop', got 'student'"),
        ({"adversarial_loss": "gan"}, ValueError, "adversarial_loss must be one of 'bce', 'wgan', got 'gan'"),
        ({"discriminator_input": "features"}, ValueError, "discriminator_input must be one of 'logits'"),
        ({"clip": 0.0}, ValueError, "clip must be positive"),
        ({"adversary_lr": -1.0}, ValueError, "adversary_lr must be positive"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        AIKD(**options)


def test_what_a_step_needs(student, teacher, batch):
    assert AIKD.needs_teacher
    with pytest.raises(TypeError, match="teacher must be a network for AIKD, got None"):
        run(built(student, teacher, batch), student, None, batch)
    for early in (lambda: run(AIKD(), student, teacher, batch), lambda: AIKD().start_epoch(student)):
        with pytest.raises(RuntimeError, match="AIKD learns modules of its own: call build"):
            early()

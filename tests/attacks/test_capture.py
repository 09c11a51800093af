"""capture: seeds, buffers and keys of the graphs, on the CPU with a stand-in for the graph itself."""

import contextlib
import copy
import gc
import warnings
from functools import partial

import pytest
import torch

import fastadv
from fastadv.attacks import APGD, BSS, FGSM, MIFGSM, PGD, VAT, CaptureError, bss, capture, captured, freeze, pgd
from fastadv.attacks.model.networks import KeepMode
from tests.attacks.recorded import record_on_the_cpu


@pytest.fixture
def recorded(monkeypatch):
    return record_on_the_cpu(monkeypatch)


def test_runs_eagerly_on_a_cpu_and_says_so(network, images, labels):
    attack = capture(PGD(eps=0.1, seed=5))
    assert attack.eager is None
    with pytest.warns(UserWarning, match="capture: there are no CUDA graphs on cpu, the loop runs eagerly") as said:
        found = [attack(network, images, labels) for _ in range(3)]
    assert len(said) == 1
    assert "no CUDA graphs on cpu" in attack.eager
    assert repr(attack) == "<capture(PGD(eps=0.1, seed=5)): there are no CUDA graphs on cpu, the loop runs eagerly>"
    for call, attacked in enumerate(found):
        assert torch.equal(attacked, pgd(network, images, labels, eps=0.1, seed=5 + call))


@pytest.mark.parametrize("seed", [5, torch.tensor(5), 2**64 - 3])
def test_replays_draw_new_noise(recorded, network, images, labels, seed):
    attack = capture(PGD(eps=0.1, steps=2, seed=seed))
    found = [attack(network, images, labels) for _ in range(4)]
    assert len(recorded) == attack.graphs == 1
    first = int(seed)
    for call, attacked in enumerate(found):
        assert torch.equal(attacked, pgd(network, images, labels, eps=0.1, steps=2, seed=(first + call) % 2**64))
    if isinstance(seed, torch.Tensor):
        assert seed == 5


def test_an_attack_that_draws_nothing_gets_no_seed(recorded, network, images, labels):
    for attack in (BSS(steps=4), partial(bss, steps=4), lambda model, x, y: bss(model, x, y, steps=4)):
        captured_attack = capture(attack)
        for x in (images, 1 - images):
            assert torch.equal(captured_attack(network, x, labels), bss(network, x, labels, steps=4))
        assert captured_attack.graphs == 1


@pytest.mark.parametrize("attack", [APGD(eps=0.1, steps=6, restarts=2, seed=5), MIFGSM(eps=0.1, steps=3, seed=5)])
def test_loops_with_a_state_of_their_own_replay_from_its_beginning(recorded, network, images, labels, attack):
    replayed = capture(attack)
    found = [replayed(network, images, labels) for _ in range(3)]
    for call, x in enumerate(found):
        assert torch.equal(x, attack(network, images, labels, seed=5 + call))


def test_without_a_seed_two_captures_differ(recorded, network, images, labels):
    first, second = (capture(PGD(eps=0.1, steps=0))(network, images, labels) for _ in range(2))
    assert not torch.equal(first, second)


def test_a_replay_attacks_what_it_is_given(recorded, network, images, labels):
    attack = capture(FGSM(eps=0.1))
    attack(network, images, labels)
    other, targets = 1 - images, (labels + 1) % 5
    result = attack(network, other, targets)
    expected = FGSM(eps=0.1)(network, other, targets)
    assert torch.equal(result, expected)
    attack(network, images, labels)
    assert torch.equal(result, expected)  # not overwritten by a later replay
    assert attack.graphs == 1


def test_one_graph_for_each_shape_model_and_precision(recorded, network, images, labels):
    attack = capture(PGD(eps=0.1, steps=1, seed=0))
    attack(network, images, labels)
    attack(network, images.clone(), labels.clone())
    assert attack.graphs == 1
    attack(network, images[:4], labels[:4])
    assert attack.graphs == 2
    attack(network, images)
    assert attack.graphs == 3
    attack(network, images.to(memory_format=torch.channels_last), labels)
    assert attack.graphs == 4
    attack(network, images.double(), labels)
    assert attack.graphs == 5
    with torch.autocast("cpu", torch.bfloat16):
        attack(network, images, labels)
    assert attack.graphs == 6
    with fastadv.use_backend("reference"):
        attack(network, images, labels)
    assert attack.graphs == 7
    attack(freeze(network.eval()), images, labels)
    assert attack.graphs == 8
    assert repr(attack) == "<capture(PGD(eps=0.1, steps=1, seed=0)): 8 graphs>"


def test_values_in_place_are_the_same_graph_and_new_memory_is_not(recorded, network, images, labels):
    frozen = freeze(network.eval())
    frozen(images)
    attack = capture(FGSM(eps=0.1))
    attack(frozen, images, labels)
    with torch.no_grad():
        network[5].weight.neg_()
    frozen.refresh()
    assert torch.equal(attack(frozen, images, labels), FGSM(eps=0.1)(frozen, images, labels))
    assert attack.graphs == 1
    frozen.network[5].weight = torch.nn.Parameter(-frozen.network[5].weight, requires_grad=False)
    assert torch.equal(attack(frozen, images, labels), FGSM(eps=0.1)(frozen, images, labels))
    assert attack.graphs == 2


def test_a_method_is_one_network_at_each_access(recorded, network, images, labels):
    attack = capture(FGSM(eps=0.1))
    for _ in range(3):
        found = attack(network.forward, images, labels)
        assert torch.equal(found, FGSM(eps=0.1)(network, images, labels))
    assert attack.graphs == 1


@pytest.mark.parametrize("kept", [lambda network: network, KeepMode])
def test_new_memory_inside_of_a_callable_is_a_new_graph(recorded, network, images, labels, kept):
    network.eval()
    attack, model = capture(FGSM(eps=0.1)), kept(lambda x: network(x))
    attack(model, images, labels)
    attack(model, images, labels)
    assert attack.graphs == 1
    network[5].weight = torch.nn.Parameter(-network[5].weight.detach())
    attack(model, images, labels)
    assert attack.graphs == 2


def test_a_callable_made_anew_at_each_call_is_told(recorded, network, images, labels):
    attack = capture(FGSM(eps=0.1))

    def attack_anew(rows, times):
        for _ in range(times):
            attack(lambda x: network(x), images[:rows], labels[:rows])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack_anew(6, 8)
        attack_anew(5, 8)
    with pytest.warns(UserWarning, match="capture: 9 graphs of batches alike, each of another model") as said:
        attack_anew(6, 3)
    assert (len(said), attack.graphs) == (1, 19)


def test_any_attack_can_be_captured(recorded, network, images, labels):
    expected = pgd(network, images, labels, eps=0.1, seed=3)
    assert torch.equal(capture(partial(pgd, eps=0.1, seed=3))(network, images, labels), expected)
    assert capture(VAT(eps=0.5))(network, images).shape == images.shape


def test_refuses_what_cannot_be_captured(monkeypatch, network, images, labels):
    with pytest.raises(ValueError, match="attack cannot be captured: its steps are a tensor"):
        capture(PGD(eps=0.1, steps=torch.arange(6)))
    with pytest.raises(TypeError, match="attack must be callable, got float"):
        capture(0.1)

    def refused(run, inputs, stateful):
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(captured, "_Graph", refused)
    monkeypatch.setattr(captured, "why_eager", lambda device: None)
    attack = capture(FGSM(eps=0.1))
    with pytest.raises(CaptureError, match=r"FGSM\(eps=0.1\) cannot be captured on cpu: called a synchronizing"):
        attack(network, images, labels)
    assert attack.graphs == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_recording_leaves_stream_and_garbage_collector_as_they_were(monkeypatch, fails):
    """Also where ending the capture raises, as torch.cuda.graph does after an operation that no graph can hold."""
    current, seen = ["callers"], []

    @contextlib.contextmanager
    def graph(graph, *, stream, capture_error_mode):
        current[0] = stream
        yield
        seen.append((stream, gc.isenabled(), capture_error_mode))
        if fails:
            raise RuntimeError("operation failed due to a previous error during capture")
        current[0] = "callers"

    monkeypatch.setattr("torch.cuda.graph", graph)
    monkeypatch.setattr("torch.cuda.current_stream", lambda: current[0])
    monkeypatch.setattr("torch.cuda.set_stream", lambda stream: current.__setitem__(0, stream))
    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext(), captured.recording(None, "side"):
        pass
    assert (current, gc.isenabled()) == (["callers"], True)
    assert seen == [("side", False, "thread_local")]


def test_tensors_given_at_a_call_are_inputs_of_its_graph(recorded, network, images, labels):
    attack = capture(PGD(eps=0.1, steps=2, loss="kl"))
    reference, ids = torch.randn(6, 5), torch.arange(6)
    for seed in (3, torch.tensor(4), 2**64 - 1):
        given = {"reference": reference, "sample_ids": ids, "seed": seed}
        assert torch.equal(attack(network, images, **given), attack.attack(network, images, **given))
        reference, ids = -reference, ids + 7
    assert attack.graphs == 1
    attack(network, images, reference=reference.double(), sample_ids=ids, seed=0)
    assert attack.graphs == 2


@pytest.mark.filterwarnings("ignore:capture")
def test_wrong_batches_are_told_as_by_the_attack(network, images):
    with pytest.raises(TypeError, match="y must be an int64 tensor, got list"):
        capture(PGD(eps=0.1))(network, images, [0] * 6)
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        capture(PGD(eps=0.1))(network, [images], None)


def test_a_seed_of_the_callers_leaves_the_own_sequence_alone(recorded, network, images, labels):
    attack, plain = capture(PGD(eps=0.1, steps=1, seed=5)), PGD(eps=0.1, steps=1)
    for given, drawn in ((None, 5), (99, 99), (None, 6), (torch.tensor(7), 7), (None, 7)):
        found = attack(network, images, labels, seed=given)
        assert torch.equal(found, plain(network, images, labels, seed=drawn))


def test_another_value_of_the_rest_is_another_graph(recorded, network, images, labels):
    attack = capture(PGD(eps=0.1, seed=0))
    for steps in (1, 2, 1):
        found = attack(network, images, labels, steps=steps, seed=4)
        assert torch.equal(found, pgd(network, images, labels, eps=0.1, steps=steps, seed=4))
    assert attack.graphs == 2
    with pytest.raises(TypeError, match="bounds must be a tensor or hashable for a captured attack, got list"):
        attack(network, images, labels, bounds=[0, 1])
    with pytest.raises(ValueError, match="its steps are a tensor"):
        attack(network, images, labels, steps=torch.arange(6))


def test_an_attack_may_give_several_tensors(recorded, network, images, labels):
    def attack(model, x, y, *, seed):
        return pgd(model, x, y, eps=0.1, steps=1, seed=seed), x.mean()

    replayed = capture(attack)
    first, mean = replayed(network, images, labels, seed=1)
    replayed(network, 1 - images, labels, seed=2)
    assert torch.equal(first, pgd(network, images, labels, eps=0.1, steps=1, seed=1))
    assert mean == images.mean()


def test_warming_up_leaves_no_trace_in_a_network_in_its_mode(recorded, network, images, labels):
    """Its BatchNorm and Dropout move with each step, captured or not."""
    twin = copy.deepcopy(network)
    attack, plain = capture(PGD(eps=0.1, steps=2)), PGD(eps=0.1, steps=2)
    for seed in range(3):
        torch.manual_seed(seed)
        found = attack(KeepMode(network), images, labels, seed=seed)
        torch.manual_seed(seed)
        assert torch.equal(found, plain(KeepMode(twin), images, labels, seed=seed))
    assert attack.graphs == 1
    assert network[1].num_batches_tracked == 6
    for name, value in network.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name
    network.eval()
    attack(KeepMode(network), images, labels, seed=0)
    assert attack.graphs == 2
    attack(network, images, labels, seed=0)
    assert attack.graphs == 3


def test_warming_up_leaves_no_trace_behind_a_callable_in_its_mode(recorded, network, images, labels):
    attack = capture(FGSM(eps=0.1))
    for _ in range(3):
        attack(KeepMode(lambda x: network(x)), images, labels)
    assert network[1].num_batches_tracked == attack.graphs == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to capture on")
def test_graphs_on_a_device(network, images, labels):
    frozen, x, y = freeze(network.cuda().eval()), images.cuda(), labels.cuda()
    frozen(x)
    attack = capture(PGD(eps=0.1, restarts=2, seed=7))
    for call in range(3):
        torch.testing.assert_close(attack(frozen, x, y), pgd(frozen, x, y, eps=0.1, restarts=2, seed=7 + call))
    assert attack.graphs == 1
    with torch.no_grad():
        network[5].weight.neg_()
    frozen.refresh()
    torch.testing.assert_close(attack(frozen, x, y), pgd(frozen, x, y, eps=0.1, restarts=2, seed=10))
    given = {"seed": 11, "sample_ids": torch.arange(3, 9, device="cuda")}
    torch.testing.assert_close(attack(frozen, x, y, **given), attack.attack(frozen, x, y, **given))
    with pytest.raises(CaptureError, match="cannot be captured"):
        capture(FGSM(eps=0.1))(lambda x: frozen(x) * x.mean().item(), x, y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to capture on")
def test_a_device_refuses_to_record_a_read_and_goes_on(network, images, labels):
    """Unlike one that waits at each call, a model that waits only while it is recorded is told by the recording."""
    frozen, x, y = freeze(network.cuda().eval()), images.cuda(), labels.cuda()
    expected = FGSM(eps=0.1)(frozen, x, y)

    def reads_while_recorded(x):
        z = frozen(x)
        return z * z.mean().item() if torch.cuda.is_current_stream_capturing() else z

    attack = capture(FGSM(eps=0.1))
    with pytest.raises(CaptureError, match="cannot be captured"):
        attack(reads_while_recorded, x, y)
    assert attack.graphs == 0
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.equal(FGSM(eps=0.1)(frozen, x, y), expected)

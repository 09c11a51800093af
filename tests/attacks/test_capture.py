"""capture: seeds, buffers and keys of the graphs, on the CPU with a stand-in for the graph itself."""

from functools import partial

import pytest
import torch

from fastadv.attacks import APGD, BSS, FGSM, MIFGSM, PGD, VAT, bss, capture, captured, freeze, pgd


@pytest.fixture
def recorded(monkeypatch):
    """Graphs that replay by running again on what they recorded: buffers and seed, not what the caller gives."""
    graphs = []

    class StandIn(captured._Graph):
        def __init__(self, run, x, y, seed):
            self._inputs = [None if given is None else given.detach().clone() for given in (x, y)]
            self._output = torch.empty_like(x)
            self._graph, self._run, self._seed = self, run, seed
            self._warm_up(run, seed)
            graphs.append(self)

        def _warm_up(self, run, seed):
            run(*self._inputs, seed.clone())

        def replay(self, *given):
            if given:
                return super().replay(*given)
            self._output.copy_(self._run(*self._inputs, self._seed))
            self._seed.add_(1)

    monkeypatch.setattr(captured, "_Graph", StandIn)
    monkeypatch.setattr(captured, "_has_graphs", lambda device: True)
    return graphs


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
    attack(freeze(network.eval()), images, labels)
    assert attack.graphs == 7
    assert repr(attack) == "<capture(PGD(eps=0.1, steps=1, seed=0)): 7 graphs>"


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


def test_any_attack_can_be_captured(recorded, network, images, labels):
    expected = pgd(network, images, labels, eps=0.1, seed=3)
    assert torch.equal(capture(partial(pgd, eps=0.1, seed=3))(network, images, labels), expected)
    assert capture(VAT(eps=0.5))(network, images).shape == images.shape


def test_refuses_what_cannot_be_captured(monkeypatch, network, images, labels):
    with pytest.raises(ValueError, match="attack cannot be captured: its steps are a tensor"):
        capture(PGD(eps=0.1, steps=torch.arange(6)))
    with pytest.raises(TypeError, match="attack must be callable, got float"):
        capture(0.1)

    def refused(run, x, y, seed):
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(captured, "_Graph", refused)
    monkeypatch.setattr(captured, "_has_graphs", lambda device: True)
    attack = capture(FGSM(eps=0.1))
    with pytest.raises(RuntimeError, match=r"FGSM\(eps=0.1\) cannot be captured on cpu: called a synchronizing"):
        attack(network, images, labels)
    assert attack.graphs == 0


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
    with pytest.raises(RuntimeError, match="cannot be captured"):
        capture(FGSM(eps=0.1))(lambda x: frozen(x) * x.mean().item(), x, y)

"""ReLUs inside convolutions: the same function where no gradient is asked for, and networks left as they are."""

import copy
import operator
import random

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from fastadv.attacks import freeze
from fastadv.attacks.model.fusing import conv_relu, fuse
from fastadv.train.networks.catalogue import build
from fastadv.train.networks.classifier import Classifier
from tests.attacks.test_freeze import with_statistics

pytestmark = [
    pytest.mark.filterwarnings("ignore:freeze"),
    pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 on this processor"
    ),
]


def functions(network: nn.Module | None) -> list:
    assert network is not None
    return [node.target for node in network.graph.nodes if node.op == "call_function"]


def classifier(name: str) -> nn.Module:
    return with_statistics(
        Classifier(build(name, num_classes=10, image_shape=(3, 32, 32)), [0.5] * 3, [0.25] * 3)
    ).float()


@pytest.mark.parametrize(
    ("name", "calls", "left"),
    [("resnet8", 7, 0), ("resnet50", 49, 0), ("vgg8", 5, 0), ("mobilenetv2", 36, 0), ("wrn_16_1", 6, 7)],
)
def test_our_networks_are_the_same_function(name, calls, left):
    model, x = classifier(name), torch.rand(3, 3, 32, 32)
    frozen = freeze(model)
    with torch.no_grad():
        found = frozen(x)
    torch.testing.assert_close(found, frozen(x).detach(), rtol=1e-5, atol=1e-5 * float(found.abs().max()))
    (fused,) = frozen._fused
    assert functions(fused).count(conv_relu) == calls
    assert functions(fused).count(relu) == left


def test_half_precision_is_no_further_from_the_model():
    model, x = classifier("resnet20"), torch.rand(64, 3, 32, 32)
    frozen = freeze(model, dtype=torch.bfloat16)
    with torch.no_grad():
        found, expected = frozen(x), model(x)
    plain = frozen(x).detach()
    assert functions(frozen._fused[0]).count(conv_relu) == 18  # all but the entry, which is in float32
    assert not torch.equal(found, plain)
    assert (found - expected).abs().mean() <= 1.05 * (plain - expected).abs().mean()


def test_a_batchnorm_folded_into_a_linear_layer_keeps_nothing_from_being_fused():
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.BatchNorm1d(5)
    frozen, x = freeze(with_statistics(nn.Sequential(*layers)).float()), torch.rand(2, 3, 8, 8)
    assert len(frozen.folded) == 1
    with torch.no_grad():
        found = frozen(x)
    torch.testing.assert_close(found, frozen(x).detach())
    assert functions(frozen._fused[0]).count(conv_relu) == 1


class Block(nn.Module):
    """relu(conv(x) + shortcut(x)), in a form that a test gives."""

    def __init__(self, join, *, stride=1, activation=relu):
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(4, 4, 3, padding=1, stride=stride), nn.Conv2d(4, 4, 1, stride=stride)
        self.join, self.activation = join, activation

    def forward(self, x):
        return self.activation(self.join(self, x)).flatten(1)


def first_in_place(block, x):
    out = block.conv(x)
    out += block.shortcut(x)
    return out


JOINED = {
    "a sum": lambda block, x: block.conv(x) + block.shortcut(x),
    "torch.add": lambda block, x: torch.add(x, block.conv(x)),
    "a sum in place": first_in_place,
    "no sum": lambda block, x: block.conv(x),
    "a sum that broadcasts": lambda block, x: block.conv(x) + x.mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("activation", [relu, torch.relu, nn.ReLU(), nn.ReLU(inplace=True), lambda x: x.relu()])
@pytest.mark.parametrize("join", JOINED)
def test_every_form_of_a_block(join, activation):
    block, x = Block(JOINED[join], activation=activation).eval(), torch.randn(5, 4, 6, 7)
    fused = fuse(block)
    assert functions(fused).count(conv_relu) == 1
    assert operator.add not in functions(fused)
    with torch.no_grad():
        torch.testing.assert_close(fused(x.clone()), block(x.clone()))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(0, 4, 6, 7), (1, 4, 6, 7), (3, 4, 1, 1), (3, 1, 5, 5), (2, 16, 8, 8), (2, 6, 1, 4)])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_call_of_any_kind(shape, groups, dtype, layout):
    groups = min(groups, shape[1])
    x, other = (torch.randn(shape).to(dtype).contiguous(memory_format=layout) for _ in range(2))
    weight = torch.randn(shape[1], shape[1] // groups, 3, 3).to(dtype).contiguous(memory_format=layout)
    bias, how = torch.randn(shape[1]).to(dtype), ((1, 1), (1, 1), (1, 1), groups)
    close = {"rtol": 0.05, "atol": 0.1} if dtype.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-4}
    exact = torch.conv2d(x.double(), weight.double(), bias.double(), *how)
    for each, expected in ((None, exact.relu()), (other, (exact + other).relu()), (other[:, :1], None)):
        found = conv_relu(x, weight, bias, *how, other=each)
        expected = (exact + each).relu() if expected is None else expected
        assert found.dtype is dtype
        torch.testing.assert_close(found, expected.to(dtype), **close)


def written_after(block, x):
    """The convolution reads x before it changes."""
    out = block.conv(x)
    return out + relu(x, inplace=True)


def drawn_by_a_random_number(block, x):
    return block.conv(x) * random.random()


def drawn_as_a_constant(block, x):
    return block.conv(x) + torch.randn(4, 6, 7)


def drawn(block, x):
    return block.conv(x) + torch.randn_like(x)


def branching(block, x):
    return block.conv(x) if x.sum() > 0 else block.shortcut(x)


@pytest.mark.parametrize(
    "join",
    [written_after, drawn_by_a_random_number, drawn_as_a_constant, drawn, branching],
    ids=lambda each: each.__name__,
)
def test_a_network_that_does_more_is_left_as_it_is(join):
    assert fuse(Block(join).eval()) is None


def used_twice(block, x):
    out = block.conv(x)
    return torch.cat((relu(out), out))


def hooked() -> Block:
    block = Block(JOINED["no sum"])
    block.conv.register_forward_hook(lambda module, images, output: 2 * output)
    return block


def replicated() -> Block:
    block = Block(JOINED["no sum"])
    block.conv.padding_mode = "reflect"
    return block


@pytest.mark.parametrize(
    "make",
    [lambda: Block(used_twice), lambda: Block(JOINED["a sum"], stride=2, activation=torch.sigmoid), hooked, replicated],
)
def test_what_is_no_convolution_and_relu_is_left_as_it_is(make):
    assert fuse(make().eval()) is None


def test_a_sum_after_a_convolution_that_changes_sizes_is_left_as_it_is():
    assert fuse(Block(JOINED["a sum"], stride=2).eval()) is None


def test_a_fused_network_follows_its_model_and_its_hooks():
    model, x, seen = classifier("resnet8"), torch.rand(3, 3, 32, 32), []
    model.register_forward_hook(lambda module, images, logits: seen.append(len(images[0])))
    frozen = freeze(model)
    with torch.no_grad():
        before = frozen(x)
        other = copy.deepcopy(frozen)
        model.network.fc.weight.mul_(2)
        model.network.conv1.weight.mul_(2)
        frozen.refresh()
        torch.testing.assert_close(frozen(x), model(x))
        seen.clear()
        assert torch.equal(other(x), before)
        assert seen == [3]
    names = [name for name, _ in frozen.named_parameters(remove_duplicate=False)]
    assert len(set(names)) == len(names) == len(list(frozen.parameters()))


def test_where_it_is_not_fused():
    frozen, x = freeze(classifier("resnet8")), torch.rand(3, 3, 32, 32)
    frozen(x)
    with torch.no_grad():
        frozen.train()(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            frozen.eval()(x)
        assert frozen._fused is None
        frozen(x)
    assert frozen._fused[0] is not None

"""The gradient of a convolution by images, found in blocks: that of torch, and where it is left to torch."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fastadv.attacks import freeze
from fastadv.attacks.model import image_conv
from fastadv.attacks.model.image_conv import ImageConv2d


@pytest.fixture(autouse=True)
def on_a_wide_processor(monkeypatch):
    monkeypatch.setattr(image_conv, "_IS_WIDE", True)


def convolution(channels: int = 3, kernel: int | tuple[int, int] = 3, padding: int | tuple[int, int] = 1, **more):
    """The same convolution twice: torch's, and one for images."""
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 8, kernel, padding=padding, **more).requires_grad_(False)
    ours = copy.deepcopy(plain)
    ours.__class__ = ImageConv2d
    return plain, ours


def images(channels: int = 3, height: int = 8, width: int = 12, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, channels, height, width, generator=generator).to(dtype).requires_grad_()


def is_blocked(output: torch.Tensor) -> bool:
    return type(output.grad_fn).__name__ == "_ConvolutionBackward"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("kernel", "padding"), [(1, 0), (3, 1), (3, 0), (3, 2), (5, 2), ((3, 5), (1, 2)), ((1, 4), (0, 3))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_is_that_of_torch(channels, kernel, padding, dtype, layout):
    plain, ours = convolution(channels, kernel, padding)
    x = images(channels, dtype=dtype)
    there, here = (layer.to(dtype=dtype)(x.contiguous(memory_format=layout)) for layer in (plain, ours))
    assert torch.equal(here, there)
    assert is_blocked(here)
    grad = torch.randn_like(here)
    expected, found = (torch.autograd.grad(output, x, grad)[0] for output in (there, here))
    assert found.shape == x.shape
    tolerance = 1e-5 if dtype is torch.float32 else 1e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(
    "how",
    [
        {"stride": 2},
        {"dilation": 2},
        {"groups": 4, "channels": 4},
        {"channels": 5},
        {"padding_mode": "reflect"},
        {"padding": 3},
        {"padding": "same"},
    ],
)
def test_other_convolutions_are_left_to_torch(how):
    plain, _ = convolution(**how)
    assert not ImageConv2d.suits(plain)


def test_what_inherits_from_a_convolution_is_left_as_it_is():
    class Own(nn.Conv2d):
        pass

    assert ImageConv2d.suits(nn.Conv2d(3, 8, 3))
    assert not ImageConv2d.suits(Own(3, 8, 3))


@pytest.mark.parametrize("reason", ["odd", "no batch", "trained", "autocast", "float64", "narrow", "no gradient"])
def test_calls_that_gain_nothing_are_left_to_torch(reason, monkeypatch):
    plain, ours = convolution()
    x = images(width=11) if reason == "odd" else images()
    if reason == "no batch":
        x = x[0].detach().requires_grad_()
    if reason == "trained":
        ours.bias.requires_grad_()
    if reason == "float64":
        plain, ours, x = plain.double(), ours.double(), x.detach().double().requires_grad_()
    if reason == "narrow":
        monkeypatch.setattr(image_conv, "_IS_WIDE", False)
    if reason == "no gradient":
        x = x.detach()
    with torch.autocast("cpu", enabled=reason == "autocast"):
        here, there = ours(x), plain(x)
    assert not is_blocked(here)
    assert torch.equal(here, there)


@pytest.mark.filterwarnings("ignore:freeze")
def test_the_frozen_copy_has_one():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    network(torch.rand(4, 3, 8, 8))
    network[0].register_forward_hook(lambda *_: calls.append(1))
    network.eval()
    calls: list[int] = []
    frozen = freeze(network)
    assert type(network[0]) is nn.Conv2d
    for copied in (frozen, copy.deepcopy(frozen), freeze(frozen)):
        (found,) = (each for each in copied.modules() if isinstance(each, ImageConv2d))
        calls.clear()
        x = torch.rand(4, 3, 8, 8, requires_grad=True)
        expected, grad = (torch.autograd.grad(model(x).sum(), x)[0] for model in (network, copied))
        assert len(calls) == 2
        torch.testing.assert_close(grad, expected)
        assert is_blocked(found(x))


def test_a_copy_can_be_pickled():
    _, ours = convolution()
    again = pickle.loads(pickle.dumps(ours))
    assert is_blocked(again(images()))


def test_its_gradient_has_a_gradient():
    x, results = images(), []
    for layer in convolution():
        (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.pow(2).sum(), x)[0])
    torch.testing.assert_close(*results)


def test_transforms_of_torch_go_through_it():
    plain, ours = convolution()
    x = images().detach()
    both = [torch.func.grad(lambda x, layer=layer: layer(x).pow(2).sum())(x) for layer in (plain, ours)]
    torch.testing.assert_close(*both)
    rows = [
        torch.func.vmap(torch.func.grad(lambda x, layer=layer: layer(x[None]).pow(2).sum()))(x)
        for layer in (plain, ours)
    ]
    torch.testing.assert_close(*rows)


def test_it_compiles():
    plain, ours = convolution()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    x = images()
    results = [torch.autograd.grad(layer(x).pow(2).sum(), x)[0] for layer in (plain, compiled)]
    torch.testing.assert_close(*results)

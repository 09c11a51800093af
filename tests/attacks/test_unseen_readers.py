"""freeze where a layer's output has a reader that no trace shows: nothing is folded into that layer."""

import warnings

import pytest
import torch
from torch import nn

from fastadv.attacks import freeze
from fastadv.distill import Hooked


def with_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor in (module.running_mean, module.weight, module.bias):
                tensor.data.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval().double()


def convolutions() -> nn.Sequential:
    first, second = (
        (nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=False)) for channels in (3, 8)
    )
    return nn.Sequential(*first, *second)


class Untraceable(nn.Module):
    """Asserts the shape of its input; its ``layers`` run as a whole, or one by one, with the convolutions read."""

    def __init__(self, *, reads: bool, layers: nn.Module):
        super().__init__()
        self.reads, self.layers, self.head = reads, layers, nn.Linear(8, 5)

    def forward(self, x):
        assert x.shape[1] == 3
        read = []
        if self.reads:
            for layer in self.layers:
                x = layer(x)
                read += [x.mean((2, 3))] * isinstance(layer, nn.Conv2d)
        else:
            x = self.layers(x)
        return self.head(sum(read) + x.mean((2, 3)))


@pytest.fixture
def x():
    return torch.rand(4, 3, 6, 6).double()


@pytest.mark.parametrize("reads", [True, False])
def test_a_sequential_that_may_run_layer_by_layer_keeps_its_norms(reads, x):
    model = with_statistics(Untraceable(reads=reads, layers=convolutions()))
    with pytest.warns(
        UserWarning,
        match=r"BatchNorm 'layers.1' is not folded: what runs layers may use the output of layers.0 as well"
        r" \(the model: .*, and 1 more",
    ):
        frozen = freeze(model)
    assert frozen.kept.keys() == {"layers.1", "layers.4"}
    torch.testing.assert_close(frozen(x), model(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.bn(self.conv(x))


def test_what_runs_inside_of_its_layers_is_folded(x):
    inner = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    model = with_statistics(Untraceable(reads=True, layers=nn.Sequential(Block(), inner)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen = freeze(model)
    assert {pair.norm for pair in frozen.folded} == {"layers.0.bn", "layers.1.1"}
    torch.testing.assert_close(frozen(x), model(x))


@pytest.mark.parametrize(
    "around", [lambda model: Hooked(model, ["2"]), lambda model: torch.compile(model, backend="eager"), nn.DataParallel]
)
def test_wrappers_that_run_their_module_as_a_whole_cost_nothing(around, x):
    model = with_statistics(nn.Sequential(*convolutions(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen = freeze(around(model))
    assert len(frozen.folded) == 2
    torch.testing.assert_close(frozen(x), model(x))


def assert_same_features(model, x):
    frozen = freeze(model)
    found, expected = frozen.with_features(x), model.with_features(x)
    for mine, theirs in zip((*found.maps, *found.preactivations), (*expected.maps, *expected.preactivations)):  # noqa: B905
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(found.embedding, expected.embedding)
    torch.testing.assert_close(frozen(x), model(x))
    return frozen


def classifier() -> nn.Sequential:
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(convolutions(), *pool, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))


@pytest.mark.parametrize(("layers", "kept"), [(["0.0", "0.4"], {"1"}), (["0.3"], {"4"}), (["0.2", "0.5"], set())])
def test_maps_of_convolutions_stay_what_they_are(layers, kept, x):
    hooked = with_statistics(Hooked(classifier(), layers))
    if kept:
        with pytest.warns(UserWarning, match=r"is not folded: the output of model.0.\d is read as features"):
            frozen = assert_same_features(hooked, x)
    else:
        frozen = assert_same_features(hooked, x)
    assert frozen.kept.keys() == {f"model.0.{name}" for name in kept}


def test_so_does_the_embedding_of_a_linear_layer(x):
    with pytest.warns(UserWarning, match=r"'model.4' is not folded: the output of model.3 is read as features"):
        assert_same_features(with_statistics(Hooked(classifier(), ["0.2"], penultimate="3")), x)
    inside = nn.Sequential(with_statistics(Hooked(classifier(), ["0.3"])))
    with pytest.warns(UserWarning, match=r"'0.model.0.4' is not folded: the output of 0.model.0.3 is read"):
        freeze(inside)

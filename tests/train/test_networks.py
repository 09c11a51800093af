"""The networks are those of the literature: sizes, names of weights, features; and freeze() folds them."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastadv.attacks import freeze
from fastadv.train.networks import catalogue
from fastadv.train.networks.mobilenetv2 import InvertedResidual
from fastadv.train.networks.resnet import cifar_resnet
from fastadv.train.networks.shufflenet import DownUnit, HalfUnit, ShuffleUnit
from fastadv.train.networks.wide_resnet import PreActivationBlock, WideResNet

# The figures as published, exactly or as rounded there, and for how many classes.
EXACT = {
    # The public checkpoints of chenyaofo/pytorch-cifar-models.
    ("resnet20", 100): 278_324,
    ("resnet32", 100): 472_756,
    ("resnet44", 100): 667_188,
    ("resnet56", 100): 861_620,
    # Those of kuangliu/pytorch-cifar and weiaicunzai/pytorch-cifar100, as their users count them.
    ("resnet18", 10): 11_173_962,
    ("resnet34", 10): 21_282_122,
    ("resnet50", 100): 23_705_252,
    ("mobilenetv2_8x", 10): 2_296_922,
}
MILLIONS = {
    # Zagoruyko and Komodakis 2016 and 2017 (attention transfer), CIFAR-10.
    ("wrn_16_1", 10): "0.2",
    ("wrn_16_2", 10): "0.7",
    ("wrn_40_1", 10): "0.6",
    ("wrn_40_2", 10): "2.2",
    # The networks of Tian et al. 2020 (RepDistiller), as papers that compare on them list them, CIFAR-100.
    ("resnet8x4", 100): "1.23",
    ("resnet32x4", 100): "7.43",
    ("resnet110", 100): "1.74",
    ("wrn_16_2", 100): "0.70",
    ("wrn_40_2", 100): "2.26",
    ("vgg8", 100): "3.97",
    ("vgg13", 100): "9.46",
    ("mobilenetv2", 100): "0.81",
}
# He et al. 2016, table 6, CIFAR-10, in millions; with shortcuts that have no weights.
WITHOUT_SHORTCUTS = {"resnet20": "0.27", "resnet32": "0.46", "resnet44": "0.66", "resnet56": "0.85", "resnet110": "1.7"}


def build(name, num_classes=10, in_channels=3):
    return catalogue.build(name, num_classes=num_classes, image_shape=(in_channels, 32, 32))


def count(name, num_classes):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(name, num_classes).parameters())


def in_millions(parameters, published):
    """`parameters` with as many decimals as what was published."""
    return f"{parameters / 1e6:.{len(published.partition('.')[2])}f}"


def test_parameter_counts_are_the_published_ones():
    assert {key: count(*key) for key in EXACT} == EXACT
    assert {key: in_millions(count(*key), figure) for key, figure in MILLIONS.items()} == MILLIONS


def test_residual_networks_count_as_published_but_for_their_shortcuts():
    shortcuts = sum(inputs * 2 * inputs + 2 * 2 * inputs for inputs in (16, 32))
    counts = {name: count(name, 10) - shortcuts for name in WITHOUT_SHORTCUTS}
    assert {name: in_millions(counts[name], figure) for name, figure in WITHOUT_SHORTCUTS.items()} == WITHOUT_SHORTCUTS


def test_residual_networks_without_a_published_figure_follow_from_their_blocks():
    """A block a stage more costs two 3x3 convolutions and two BatchNorms at each width."""
    blocks = sum(2 * 9 * width * width + 4 * width for width in (16, 32, 64))
    assert count("resnet14", 100) == 278_324 - blocks
    assert count("resnet8", 100) == 278_324 - 2 * blocks


def test_shuffle_networks_count_as_their_papers_blocks_do():
    """No published figure was found for 32x32: a sum over the blocks as the papers describe them."""

    def conv(inputs, outputs, kernel=1, groups=1):
        """Weights of a convolution and of its BatchNorm."""
        return inputs * outputs * kernel**2 // groups + 2 * outputs

    def unit_of_v1(inputs, outputs, groups):
        inner = outputs // 4
        return conv(inputs, inner, groups=groups) + conv(inner, inner, 3, inner) + conv(inner, outputs, groups=3)

    first = unit_of_v1(24, 240 - 24, 1) + unit_of_v1(240, 480 - 240, 3) + unit_of_v1(480, 960 - 480, 3)
    others = 3 * unit_of_v1(240, 240, 3) + 7 * unit_of_v1(480, 480, 3) + 3 * unit_of_v1(960, 960, 3)
    assert count("shufflenetv1", 100) == conv(3, 24) + first + others + 961 * 100

    def branch(inputs, half):
        return conv(inputs, half) + conv(half, half, 3, half) + conv(half, half)

    total = conv(3, 24) + conv(464, 1024) + 1025 * 100
    for inputs, outputs, repeats in ((24, 116, 3), (116, 232, 7), (232, 464, 3)):
        half = outputs // 2
        total += (
            conv(inputs, inputs, 3, inputs) + conv(inputs, half) + branch(inputs, half) + repeats * branch(half, half)
        )
    assert count("shufflenetv2", 100) == total


@pytest.mark.parametrize("name", catalogue.NETWORKS)
def test_features_are_of_one_forward_pass(name):
    network = build(name, in_channels=1).eval()
    x = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        features = network.with_features(x)
        assert torch.equal(features.logits, network(x))
    assert features.logits.shape == (2, 10)
    (head,) = (module for module in network.modules() if isinstance(module, nn.Linear))
    torch.testing.assert_close(head(features.embedding), features.logits, rtol=0, atol=0)
    sizes = [feature.shape[2] for feature in features.maps]
    assert sizes == sorted(sizes, reverse=True)
    for shown, before in zip(features.maps, features.preactivations, strict=True):
        assert torch.equal(shown, before.relu()) or (name.startswith("mobilenetv2") and shown is before)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet20", [(16, 32), (16, 32), (32, 16), (64, 8)]),
        ("resnet8x4", [(32, 32), (64, 32), (128, 16), (256, 8)]),
        ("resnet18", [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)]),
        ("resnet50", [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)]),
        ("wrn_16_2", [(16, 32), (32, 32), (64, 16), (128, 8)]),
        ("vgg8", [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
        ("mobilenetv2", [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)]),
        ("mobilenetv2_8x", [(32, 32), (24, 32), (32, 16), (96, 8), (320, 4)]),
        ("shufflenetv1", [(24, 32), (240, 16), (480, 8), (960, 4)]),
        ("shufflenetv2", [(24, 32), (116, 16), (232, 8), (464, 4)]),
    ],
)
def test_maps_have_their_published_shapes(name, shapes):
    with torch.device("meta"):
        features = build(name).with_features(torch.empty(2, 3, 32, 32))
    assert [tuple(feature.shape[1:]) for feature in features.maps] == [(width, size, size) for width, size in shapes]


def silence(norm):
    """Make a BatchNorm give zeros."""
    nn.init.zeros_(norm.weight)


def test_units_without_their_branch_are_their_shortcut():
    x = torch.rand(2, 240, 8, 8)
    unit = ShuffleUnit(240, 240, 1)
    silence(unit.bn3)
    torch.testing.assert_close(unit(x), x)
    unit = ShuffleUnit(240, 480, 2)
    silence(unit.bn3)
    torch.testing.assert_close(unit(x)[:, 240:], F.avg_pool2d(x, 3, stride=2, padding=1))

    unit = HalfUnit(240)
    silence(unit.bn3)
    torch.testing.assert_close(unit(x)[:, 0::2], x[:, :120])
    assert not unit(x)[:, 1::2].any()
    unit = DownUnit(240, 480)
    silence(unit.bn5)
    assert unit(x)[:, 0::2].any()
    assert not unit(x)[:, 1::2].any()

    block = InvertedResidual(240, 240, 1, 6)
    silence(block.conv[-1])
    torch.testing.assert_close(block(x), x)

    block = PreActivationBlock(240, 120, 2)
    nn.init.zeros_(block.conv2.weight)
    torch.testing.assert_close(block(x - 0.5), block.convShortcut(F.relu(block.bn1(x - 0.5))))
    block = PreActivationBlock(240, 240, 1)
    nn.init.zeros_(block.conv2.weight)
    torch.testing.assert_close(block(x), x)


def test_shuffling_lets_every_group_see_every_other():
    unit = ShuffleUnit(240, 240, 1).eval()
    x = torch.rand(1, 240, 8, 8)
    changed = torch.cat((torch.rand(1, 80, 8, 8), x[:, 80:]), dim=1)
    difference = unit.preactivation(changed) - unit.preactivation(x)
    assert all(group.any() for group in difference.chunk(3, dim=1))


@pytest.mark.parametrize("name", catalogue.NETWORKS)
def test_freeze_folds_every_batchnorm_that_follows_a_convolution(name):
    network = with_statistics(build(name)).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if name.startswith("wrn") else "error")
        frozen = freeze(network)
        assert not frozen.untraced
        # What comes before the activation of a wide block reads a sum, or a stem that the shortcut reads too.
        assert all(name.startswith("wrn") and path.endswith("bn1") for path in frozen.kept)
        x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(frozen(x), network(x), rtol=1e-9, atol=1e-12)


def with_statistics(network):
    """The network with BatchNorms that do something, and activations that neither vanish nor explode."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor, std=0.1)
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return network


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet8x4", {"layer3.0.downsample.0.weight": (256, 128, 1, 1), "fc.bias": (10,)}),
        ("wrn_16_2", {"block2.layer.0.convShortcut.weight": (64, 32, 1, 1), "block3.layer.1.bn1.weight": (128,)}),
        ("vgg13", {"block4.3.weight": (512, 512, 3, 3), "block4.3.bias": (512,), "classifier.weight": (10, 512)}),
        ("mobilenetv2", {"conv1.0.weight": (16, 3, 3, 3), "blocks.6.0.conv.6.weight": (160, 480, 1, 1)}),
        ("shufflenetv1", {"layer2.7.conv3.weight": (480, 40, 1, 1), "linear.bias": (10,)}),
        ("shufflenetv2", {"layer3.0.conv5.weight": (232, 232, 1, 1), "layer3.3.conv2.weight": (232, 1, 3, 3)}),
    ],
)
def test_weights_are_named_as_in_repdistiller(name, weights):
    own = build(name).state_dict()
    assert {key: tuple(own[key].shape) for key in weights} == weights


def test_residual_networks_understand_the_names_of_pytorch_cifar():
    network, other = build("resnet18"), build("resnet18")
    own = network.state_dict()
    theirs = {name.replace("downsample", "shortcut").replace("fc.", "linear."): value for name, value in own.items()}
    assert len(theirs.keys() - own.keys()) == 3 * 6 + 2
    nn.ModuleDict({"inside": other}).load_state_dict({f"inside.{name}": value for name, value in theirs.items()})
    assert all(torch.equal(value, own[name]) for name, value in other.state_dict().items())
    assert "linear.weight" in theirs


def test_impossible_depths_are_refused():
    with pytest.raises(ValueError, match="depth: 21"):
        cifar_resnet(21, num_classes=10)
    with pytest.raises(ValueError, match="depth: 17"):
        WideResNet(17, 1, num_classes=10)

"""The networks by name. Importing this imports no torch."""

import importlib
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fastadv.train.networks import libraries
from fastadv.train.runtime import own_code
from fastadv.train.runtime.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


def _build(target: str, *args: Any, **keywords: Any) -> "nn.Module":
    """Call MODULE:FUNCTION of this package."""
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(f"fastadv.train.networks.{module}"), function)(*args, **keywords)


# Called with num_classes and in_channels. A new network is a line here.
NETWORKS: "dict[str, Callable[..., nn.Module]]" = {
    # The digits' teacher, whose last stage has half the resolution, and student, where each stage halves it.
    "digits_cnn": partial(_build, "digits:DigitsNet", (16, 1), (32, 1), (64, 2)),
    "digits_small": partial(_build, "digits:DigitsNet", (8, 2), (16, 2)),
    **{f"resnet{depth}": partial(_build, "resnet:cifar_resnet", depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{
        f"resnet{depth}x4": partial(_build, "resnet:cifar_resnet", depth, widths=(32, 64, 128, 256))
        for depth in (8, 32)
    },
    "resnet18": partial(_build, "resnet:imagenet_resnet", (2, 2, 2, 2)),
    "resnet34": partial(_build, "resnet:imagenet_resnet", (3, 4, 6, 3)),
    "resnet50": partial(_build, "resnet:imagenet_resnet", (3, 4, 6, 3), bottleneck=True),
    **{
        f"wrn_{depth}_{width}": partial(_build, "wide_resnet:WideResNet", depth, width)
        for depth in (16, 40)
        for width in (1, 2)
    },
    "vgg8": partial(_build, "vgg:Vgg", (1, 1, 1, 1, 1)),
    "vgg13": partial(_build, "vgg:Vgg", (2, 2, 2, 2, 2)),
    "mobilenetv2": partial(_build, "mobilenetv2:MobileNetV2"),
    "mobilenetv2_8x": partial(_build, "mobilenetv2:MobileNetV2", 1.0, stem_stride=1, projected=True),
    "shufflenetv1": partial(_build, "shufflenetv1:ShuffleNetV1"),
    "shufflenetv2": partial(_build, "shufflenetv2:ShuffleNetV2"),
}

# Help of the flags of both commands.
NETWORK = (
    f"{', '.join(NETWORKS)}, timm:NAME, torchvision:NAME, or MODULE:FUNCTION of your own, called with num_classes and "
    "image_shape where it takes them"
)
# Networks that functions of the user's own have made.
_BUILT: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


def check_name(field: str, name: str) -> None:
    """Raise ConfigError naming ``field`` where ``name`` is none of NETWORKS, of an installed library or one's own."""
    if libraries.is_from_library(name):
        libraries.check(field, name)
    elif own_code.is_own(name):
        own_code.find(field, name)
    elif name not in NETWORKS:
        near = did_you_mean(name, NETWORKS)
        raise ConfigError(f"{field}: {name!r}{near or ','} expected one of {NETWORK}")


def build(name: str, *, num_classes: int, image_shape: tuple[int, int, int], field: str = "network") -> "nn.Module":
    """Build the network ``name``, as check_name has them, for images [C, H, W]. Raises ConfigError naming ``field``."""
    check_name(field, name)
    if libraries.is_from_library(name):
        return libraries.build(name, num_classes=num_classes, in_channels=image_shape[0])
    if own_code.is_own(name):
        return _build_own(field, name, num_classes=num_classes, image_shape=image_shape)
    return NETWORKS[name](num_classes=num_classes, in_channels=image_shape[0])


def _build_own(field: str, name: str, **arguments: object) -> "nn.Module":
    from torch import nn

    network = own_code.call(field, name, **arguments)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{field}: {name!r} gave {type(network).__name__}, expected a torch.nn.Module")
    if network in _BUILT:
        raise ConfigError(f"{field}: {name!r} gave the same network again, expected a new one at each call")
    _BUILT.add(network)
    return network

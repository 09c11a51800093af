"""The networks by name: our own, and timm:NAME and torchvision:NAME where those libraries are installed.

The libraries' are built without pretrained weights and have no ``with_features``. Importing this imports no torch.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fastadv.train.runtime.errors import ConfigError, did_you_mean
from fastadv.train.runtime.extras import require

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
    "shufflenetv1": partial(_build, "shufflenet:ShuffleNetV1"),
    "shufflenetv2": partial(_build, "shufflenet:ShuffleNetV2"),
}


def check_name(field: str, name: str) -> None:
    """Raise ConfigError naming ``field`` where ``name`` is neither in NETWORKS nor of a library.

    Raises MissingExtraError where that library is not installed.
    """
    if name.startswith(("timm:", "torchvision:")):
        library, module, model = _from_library(field, name)
        known = module.is_model(model) if library == "timm" else model in module.models.list_models(module.models)
        if not known:
            raise ConfigError(f"{field}: {name!r}, but {library} {module.__version__} has no classifier {model!r}")
    elif name not in NETWORKS:
        near = did_you_mean(name, NETWORKS)
        raise ConfigError(
            f"{field}: {name!r}{near or ','} expected one of {', '.join(NETWORKS)}, timm:NAME or torchvision:NAME"
        )


def build(name: str, *, num_classes: int, image_shape: tuple[int, int, int]) -> "nn.Module":
    """Build the network ``name``, as check_name has them, for images [C, H, W].

    Raises what check_name raises, and ConfigError where the network of a library cannot have that many channels.
    """
    check_name("network", name)
    in_channels = image_shape[0]
    if name in NETWORKS:
        return NETWORKS[name](num_classes=num_classes, in_channels=in_channels)
    library, module, model = _from_library("network", name)
    if library == "timm":
        return module.create_model(model, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    if in_channels != 3:
        raise ConfigError(f"network: {name!r} takes images of 3 channels, the data have {in_channels}")
    return module.models.get_model(model, weights=None, num_classes=num_classes)


def _from_library(field: str, name: str) -> tuple[str, Any, str]:
    """Return the library's name, the library, and the model's name in it."""
    library, _, model = name.partition(":")
    return library, require(library, f"{field} {name}", install=library), model

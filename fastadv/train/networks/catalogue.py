"""The networks by name: our own, timm:NAME and torchvision:NAME where those are installed, MODULE:FUNCTION of a user.

The libraries' are built without pretrained weights and have no ``with_features``. Importing this imports no torch.
"""

import pkgutil
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fastadv.train.runtime import imports
from fastadv.train.runtime.errors import ConfigError, unknown_name
from fastadv.train.runtime.imports import require

if TYPE_CHECKING:
    from torch import nn


def _build(target: str, *args: Any, **keywords: Any) -> "nn.Module":
    """Call MODULE:FUNCTION of this package."""
    return pkgutil.resolve_name(f"fastadv.train.networks.{target}")(*args, **keywords)


# Called with num_classes and in_channels. A new network is a line here.
NETWORKS: "dict[str, Callable[..., nn.Module]]" = {
    # The digits' teacher, whose last stage has half the resolution, and student, where each stage halves it.
    "digits_cnn": partial(_build, "digits:DigitsNet", (16, 1), (32, 1), (64, 2)),
    "digits_small": partial(_build, "digits:DigitsNet", (8, 2), (16, 2)),
    **{f"resnet{depth}": partial(_build, "resnet:cifar_resnet", depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x4": partial(_build, "resnet:cifar_resnet", 8, widths=(32, 64, 128, 256)),
    "resnet32x4": partial(_build, "resnet:cifar_resnet", 32, widths=(32, 64, 128, 256)),
    "resnet18": partial(_build, "resnet:imagenet_resnet", (2, 2, 2, 2)),
    "resnet34": partial(_build, "resnet:imagenet_resnet", (3, 4, 6, 3)),
    "resnet50": partial(_build, "resnet:imagenet_resnet", (3, 4, 6, 3), bottleneck=True),
    "wrn_16_1": partial(_build, "wide_resnet:WideResNet", 16, 1),
    "wrn_16_2": partial(_build, "wide_resnet:WideResNet", 16, 2),
    "wrn_40_1": partial(_build, "wide_resnet:WideResNet", 40, 1),
    "wrn_40_2": partial(_build, "wide_resnet:WideResNet", 40, 2),
    "vgg8": partial(_build, "vgg:Vgg", (1, 1, 1, 1, 1)),
    "vgg13": partial(_build, "vgg:Vgg", (2, 2, 2, 2, 2)),
    "mobilenetv2": partial(_build, "mobilenetv2:MobileNetV2"),
    "mobilenetv2_8x": partial(_build, "mobilenetv2:MobileNetV2", 1.0, stem_stride=1, projected=True),
    "shufflenetv1": partial(_build, "shufflenet:ShuffleNetV1"),
    "shufflenetv2": partial(_build, "shufflenet:ShuffleNetV2"),
}

# Help of the flags of both commands.
NETWORK = (
    f"{', '.join(NETWORKS)}, timm:NAME, torchvision:NAME, or MODULE:FUNCTION of your own, called with num_classes and "
    "image_shape where it takes them; all get images normalised by the data's mean and std, but a "
    "fastadv.attacks.Normalized that your function gives gets pixels in [0, 1]"
)
_LIBRARIES = ("timm:", "torchvision:")
# Networks that functions of the user's own have made.
_BUILT: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


def is_own(name: str) -> bool:
    """Return whether ``name`` is MODULE:FUNCTION, whose networks may come with weights."""
    return imports.is_own(name) and not name.startswith(_LIBRARIES)


def check_name(field: str, name: str) -> None:
    """Raise ConfigError naming ``field`` where ``name`` is none of NETWORKS, of a library or one's own.

    Raises MissingExtraError where that library is not installed.
    """
    if name.startswith(_LIBRARIES):
        library, module, model = _from_library(field, name)
        known = module.is_model(model) if library == "timm" else model in module.models.list_models(module.models)
        if not known:
            raise ConfigError(f"{field}: {name!r}, but {library} {module.__version__} has no classifier {model!r}")
    elif is_own(name):
        imports.find_own(field, name)
    elif name not in NETWORKS:
        raise unknown_name(field, name, NETWORKS, NETWORK)


def build(name: str, *, num_classes: int, image_shape: tuple[int, int, int], field: str = "network") -> "nn.Module":
    """Build the network ``name``, as check_name has them, for images [C, H, W].

    Raises what check_name raises, and ConfigError naming ``field`` where the network of a library cannot have that many
    channels, or one's own function raises or makes none.
    """
    check_name(field, name)
    in_channels = image_shape[0]
    if name in NETWORKS:
        return NETWORKS[name](num_classes=num_classes, in_channels=in_channels)
    if not name.startswith(_LIBRARIES):
        return _build_own(field, name, num_classes=num_classes, image_shape=image_shape)
    library, module, model = _from_library(field, name)
    if library == "timm":
        return module.create_model(model, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    if in_channels != 3:
        raise ConfigError(f"{field}: {name!r} takes images of 3 channels, the data have {in_channels}")
    return module.models.get_model(model, weights=None, num_classes=num_classes)


def _from_library(field: str, name: str) -> tuple[str, Any, str]:
    """Return the library's name, the library, and the model's name in it."""
    library, _, model = name.partition(":")
    return library, require(library, f"{field} {name}", install=library), model


def _build_own(field: str, name: str, **arguments: object) -> "nn.Module":
    from torch import nn

    network = imports.call_own(field, name, **arguments)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{field}: {name!r} gave {type(network).__name__}, expected a torch.nn.Module")
    if network in _BUILT:
        raise ConfigError(f"{field}: {name!r} gave the same network again, expected a new one at each call")
    _BUILT.add(network)
    return network

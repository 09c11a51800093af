"""Classification networks of other libraries, where those are installed: timm:NAME and torchvision:NAME.

They are built without pretrained weights and have no ``with_features``.
"""

from typing import TYPE_CHECKING, Any

from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.extras import require

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("timm", "torchvision")


def is_from_library(name: str) -> bool:
    """Return whether ``name`` is LIBRARY:NAME."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def check(field: str, name: str) -> None:
    """Raise MissingExtraError where the library of LIBRARY:NAME is not installed, ConfigError where it has no NAME.

    field: what the errors call the name.
    """
    library, _, model = name.partition(":")
    module = _library(field, name)
    known = module.is_model(model) if library == "timm" else model in module.models.list_models(module.models)
    if not known:
        raise ConfigError(f"{field}: {name!r}, but {library} {module.__version__} has no classifier {model!r}")


def build(name: str, *, num_classes: int, in_channels: int) -> "nn.Module":
    """The network LIBRARY:NAME. Raises MissingExtraError, or ConfigError where its stem cannot have in_channels."""
    library, _, model = name.partition(":")
    module = _library("network", name)
    if library == "timm":
        return module.create_model(model, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    if in_channels != 3:
        raise ConfigError(f"network: {name!r} takes images of 3 channels, the data have {in_channels}")
    return module.models.get_model(model, weights=None, num_classes=num_classes)


def _library(field: str, name: str) -> Any:
    library = name.partition(":")[0]
    return require(library, f"{field} {name}", install=library)

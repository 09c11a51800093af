"""Networks of timm and torchvision by name."""

import sys
from types import SimpleNamespace

import pytest
import torch

from fastadv.attacks import pgd
from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.config.train_config import Config
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier
from fastadv.train.robustness.attack_split import prepare
from fastadv.train.runtime.errors import ConfigError, MissingExtraError


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_network_of_an_installed_library_is_attacked_like_our_own(library):
    pytest.importorskip(library, exc_type=(ImportError, RuntimeError))
    network = catalogue.build(f"{library}:resnet18", num_classes=7, image_shape=(3, 32, 32))
    classifier = Classifier(network, (0.5,) * 3, (0.25,) * 3).eval()
    x = torch.rand(2, 3, 32, 32)
    assert classifier(x).shape == (2, 7)
    assert (pgd(classifier, x, torch.tensor([1, 5]), eps=0.1, steps=2) - x).abs().max() > 0.05
    with pytest.raises(TypeError, match=r"with_features"):
        classifier.with_features(x)
    with pytest.raises(ConfigError, match=rf"teacher: '{library}:resnet19', but {library} .* has no classifier"):
        Config(teacher=f"{library}:resnet19")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_an_absent_library_is_named_with_its_install_command(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        MissingExtraError, match=rf"student {library}:resnet18 needs {library} .*: pip install {library}"
    ):
        Config(student=f"{library}:resnet18")


def test_timm_is_asked_for_the_number_of_classes_and_channels(monkeypatch):
    asked = {}
    timm = SimpleNamespace(
        is_model=lambda name: name == "tiny",
        create_model=lambda name, **arguments: asked.update(name=name, **arguments) or torch.nn.Flatten(),
        __version__="0",
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert isinstance(catalogue.build("timm:tiny", num_classes=7, image_shape=(1, 8, 8)), torch.nn.Flatten)
    assert asked == {"name": "tiny", "pretrained": False, "num_classes": 7, "in_chans": 1}
    with pytest.raises(ConfigError, match="network: 'timm:huge', but timm 0 has no classifier 'huge'"):
        catalogue.build("timm:huge", num_classes=7, image_shape=(1, 8, 8))


def test_torchvision_takes_colour_images_only(monkeypatch):
    known = SimpleNamespace(
        list_models=lambda module: ["tiny"] if module is known else [],
        get_model=lambda name, *, weights, num_classes: torch.nn.Linear(1, num_classes),
    )
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=known, __version__="0"))
    assert catalogue.build("torchvision:tiny", num_classes=7, image_shape=(3, 8, 8)).out_features == 7
    with pytest.raises(ConfigError, match="takes images of 3 channels, the data have 1"):
        catalogue.build("torchvision:tiny", num_classes=7, image_shape=(1, 8, 8))


def test_weights_of_a_librarys_network_come_from_a_file(monkeypatch, tmp_path):
    def create_model(name, *, pretrained, num_classes, in_chans):
        assert not pretrained
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * in_chans, num_classes))

    timm = SimpleNamespace(is_model=lambda name: name == "tiny", create_model=create_model, __version__="0")
    monkeypatch.setitem(sys.modules, "timm", timm)
    network = catalogue.build("timm:tiny", num_classes=10, image_shape=(1, 8, 8))
    torch.save(
        {"state_dict": {f"model.{name}": each for name, each in network.state_dict().items()}}, tmp_path / "w.pt"
    )
    config = AttackConfig(model="timm:tiny", checkpoint=tmp_path / "w.pt", n=10)
    loaded = prepare(config).network.network
    assert all(torch.equal(mine, network.state_dict()[name]) for name, mine in loaded.state_dict().items())

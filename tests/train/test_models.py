import pytest
import torch

from fastadv.attacks.model.wrappers import Normalize
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier
from fastadv.train.runtime.errors import ConfigError


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"'resnet21', did you mean resnet\d+\? expected one of digits_cnn"):
        catalogue.build("resnet21", num_classes=10, image_shape=(3, 32, 32))


def test_normalisation_is_the_first_layer_and_no_weight():
    classifier = Classifier(torch.nn.Identity(), (0.5, 0.25), (2.0, 4.0))
    x = torch.rand(3, 2, 4, 4)
    expected = torch.stack([(x[:, 0] - 0.5) / 2, (x[:, 1] - 0.25) / 4], dim=1)
    torch.testing.assert_close(classifier(x), expected)
    assert not classifier.state_dict()
    with pytest.raises(ValueError, match="std > 0"):
        Normalize((0.5,), (0.0,))

import pytest
import torch

from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier, Normalize, load_weights
from fastadv.train.runtime.errors import CheckpointError, ConfigError


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"'resnet21', did you mean resnet\d+\? expected one of digits_cnn"):
        catalogue.build("resnet21", num_classes=10, image_shape=(3, 32, 32))


def test_normalisation_is_the_first_layer_and_no_weight():
    classifier = Classifier(Normalize((0.5, 0.25), (2.0, 4.0)), torch.nn.Identity())
    x = torch.rand(3, 2, 4, 4)
    expected = torch.stack([(x[:, 0] - 0.5) / 2, (x[:, 1] - 0.25) / 4], dim=1)
    torch.testing.assert_close(classifier(x), expected)
    assert not classifier.state_dict()
    with pytest.raises(ValueError, match="std > 0"):
        Normalize((0.5,), (0.0,))


def test_weights_that_do_not_fit_are_refused_with_the_file(tmp_path):
    small, large = (
        catalogue.build(name, num_classes=10, image_shape=(1, 8, 8)) for name in ("digits_small", "digits_cnn")
    )
    path = tmp_path / "weights.pt"
    torch.save(small.state_dict(), path)
    load_weights(catalogue.build("digits_small", num_classes=10, image_shape=(1, 8, 8)), path)
    with pytest.raises(CheckpointError, match=r"weights\.pt: no weights for DigitsNet .*: Missing key\(s\)") as raised:
        load_weights(large, path)
    assert "stages.2.0.weight" in str(raised.value)
    assert len(str(raised.value)) < 400
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"weights\.pt: no weights for .* \(damaged, or with code in it"):
        load_weights(small, path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(small, tmp_path / "absent.pt")

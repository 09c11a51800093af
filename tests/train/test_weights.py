"""Checkpoints of every layout load by one rule; what does not is called what it is."""

import argparse
import copy

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from fastadv.train.cli import main
from fastadv.train.networks import catalogue
from fastadv.train.networks.weights import load_weights
from fastadv.train.runtime.errors import CheckpointError


def network(name="digits_small"):
    return catalogue.build(name, num_classes=10, image_shape=(1, 8, 8))


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


LAYOUTS = {
    "plain": lambda state: state,
    "net of data parallel": lambda state: {"net": prefixed(state, "module."), "acc": 0.9, "epoch": 199},
    "lightning": lambda state: {
        "state_dict": prefixed(state, "model."),
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}}],
        "pytorch-lightning_version": "2.0",
    },
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled data parallel": lambda state: {"model": prefixed(state, "module._orig_mod.")},
    "average beside other things": lambda state: {"ema": state, "decay": 0.999, "updates": torch.tensor(3)},
    "a part of the trainer's": lambda state: {"model": prefixed(state, "network."), "seconds": 1.0},
    "numpy numbers": lambda state: {"state_dict": state, "best": np.float64(0.5), "epoch": np.int64(3)},
    "without counters": lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_understood(tmp_path, layout):
    saved = network()
    torch.save(LAYOUTS[layout](dict(saved.state_dict())), tmp_path / "file.pt")
    loaded = network()
    load_weights(loaded, tmp_path / "file.pt")
    for mine, theirs in zip(loaded.parameters(), saved.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_torchs_own_average_is_understood(tmp_path):
    saved = network()
    torch.save(AveragedModel(saved).state_dict(), tmp_path / "file.pt")
    loaded = network()
    load_weights(loaded, tmp_path / "file.pt")
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(loaded.parameters(), saved.parameters(), strict=True))


@pytest.mark.parametrize("keys", [("model", "average"), ("state_dict", "state_dict_ema"), ("ema", "net")])
def test_averaged_weights_come_before_others_which_is_said(tmp_path, capsys, keys):
    averaged = next(key for key in keys if key in ("average", "state_dict_ema", "ema"))
    saved = {key: network().state_dict() for key in keys}
    torch.save(saved, tmp_path / "file.pt")
    loaded = network()
    choice = load_weights(loaded, tmp_path / "file.pt")
    assert all(torch.equal(value, saved[averaged][name]) for name, value in loaded.state_dict().items())
    other = next(key for key in keys if key != averaged)
    assert choice == f"those of {averaged}, not of {other}"
    assert choice in capsys.readouterr().out


def test_a_choice_between_equal_weights_is_none(tmp_path, capsys):
    saved = network().state_dict()
    torch.save(
        {"model": saved, "average": {name: value.clone() for name, value in saved.items()}}, tmp_path / "file.pt"
    )
    assert load_weights(network(), tmp_path / "file.pt") is None
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_a_run_with_an_average_has_the_weights_that_count(tmp_path):
    run = tmp_path / "run"
    options = ["--methods=ce", "--seeds=0", "--epochs=1", "--max-steps=4", "--ema=0.9", "--eval-samples=10"]
    assert main(["train", "--run-dir", str(run), "--no-tensorboard", "--eval-steps=1", *options]) == 0
    (checkpoint,) = (run / "ce-seed0" / "checkpoints").glob("step-*.pt")
    loaded = network()
    load_weights(loaded, checkpoint)
    expected = torch.load(run / "ce-seed0" / "weights.pt")
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    attack = ["--model=digits_small", f"--checkpoint={checkpoint}", "--n=10", "--steps=1"]
    assert main(["attack", "--out", str(tmp_path / "attack"), *attack]) == 0
    assert "- Weights: those of average, not of model" in (tmp_path / "attack" / "report.md").read_text()


def test_safetensors_are_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    saved, loaded = network(), network()
    safetensors.save_file(saved.state_dict(), tmp_path / "file.safetensors")
    load_weights(loaded, tmp_path / "file.safetensors")
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(loaded.parameters(), saved.parameters(), strict=True))


def refused(path, name="digits_small"):
    with pytest.raises(CheckpointError) as raised:
        load_weights(network(name), path, name=name)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert len(message) < 500
    return message


def test_missing_and_unexpected_names_are_shown_side_by_side(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"state_dict": prefixed(network("resnet8").state_dict(), "module.")}, path)
    message = refused(path, "resnet20")
    assert "no weights for resnet20: missing layer1.1.conv1.weight" in message
    assert message.endswith("unexpected nothing")
    message = refused(path)
    assert "missing stages.0.0.weight" in message
    assert "unexpected conv1.weight" in message or "unexpected module.conv1.weight" in message
    torch.save(network("digits_cnn").state_dict(), path)
    assert "no weights for digits_small (RuntimeError: Error(s) in loading state_dict" in refused(path)


CONTENTS = {
    "html": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page, no checkpoint"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", "a pointer of Git LFS"),
    "passwd": (b"root:x:0:0:root:/root:/bin/bash\n", "a text file, no checkpoint"),
    "empty": (b"", "an empty file, no checkpoint"),
    "damaged": (b"PK\x03\x04 and then nothing", "no weights"),
    "noise": (bytes(range(256)), "no weights"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, name):
    content, message = CONTENTS[name]
    (tmp_path / "file.pt").write_bytes(content)
    assert message in refused(tmp_path / "file.pt")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "no such file" in refused(tmp_path / "absent.pt")
    assert "Is a directory" in refused(tmp_path)


def test_a_class_is_not_loaded_but_named(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"args": argparse.Namespace(lr=0.1), "state_dict": network().state_dict()}, path)
    assert "holds argparse.Namespace, which is not loaded; save the weights alone" in refused(path)


def test_there_must_be_weights_and_finite_ones(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"epoch": 3}, path)
    assert "holds no weights" in refused(path)
    state = copy.deepcopy(network().state_dict())
    state["fc.bias"][3] = float("nan")
    torch.save(state, path)
    assert "weights that are not finite: fc.bias" in refused(path)

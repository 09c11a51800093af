"""Our loader and networks reproduce the published accuracy of public checkpoints, where CIFAR-100 is at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastadv.attacks import pgd
from fastadv.train.cli import main
from fastadv.train.config.train_config import Config
from fastadv.train.data import datasets
from fastadv.train.data.splits import to_pixels
from fastadv.train.loop.evaluation import accuracy
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier
from fastadv.train.networks.weights import load_weights

DATA = Path(os.environ.get("FASTADV_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not (DATA / "unpack.py").is_file() or not (DATA / "checkpoints").is_dir(),
    reason="no folder with unpack.py and checkpoints/: set FASTADV_DATA",
)


@pytest.fixture(scope="module")
def cifar100_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar100")
    subprocess.run([sys.executable, DATA / "unpack.py", folder, "--format", "both"], check=True)
    return folder


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_public_checkpoints_fit(depth):
    network = catalogue.build(f"resnet{depth}", num_classes=100, image_shape=(3, 32, 32))
    path = DATA / "checkpoints" / f"cifar100_resnet{depth}.pth"
    load_weights(network, path)
    weights = torch.load(path, weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_both_layouts_hold_the_same_images(cifar100_folder):
    python, binary = (
        datasets.load("cifar100", data_dir=cifar100_folder / f"cifar-100-{kind}") for kind in ("python", "binary")
    )
    for split in ("train", "test"):
        assert torch.equal(getattr(python, split).images, getattr(binary, split).images)
        assert torch.equal(getattr(python, split).labels, getattr(binary, split).labels)
    assert (python.class_names[0], binary.class_names[0]) == ("apple", "0")


def test_resnet56_scores_what_was_published(cifar100_folder):
    data = datasets.load("cifar100", data_dir=cifar100_folder)
    network = catalogue.build("resnet56", num_classes=100, image_shape=data.image_shape)
    load_weights(network, DATA / "checkpoints" / "cifar100_resnet56.pth")
    model = Classifier(network, data.mean, data.std).to(memory_format=torch.channels_last)
    config = Config(eval_batch_size=500, channels_last=True)
    assert accuracy(model, data.test, config) == pytest.approx(0.7263, abs=2e-4)


def test_the_attack_command_on_resnet20(cifar100_folder, tmp_path):
    checkpoint = DATA / "checkpoints" / "cifar100_resnet20.pth"
    options = ["--model=resnet20", f"--checkpoint={checkpoint}", "--data=cifar100", f"--data-dir={cifar100_folder}"]
    attack = ["--attack=pgd", "--eps=0.3/255", "--steps=3", "--n=60", "--batch-size=40"]
    assert main(["attack", "--out", str(tmp_path), *options, *attack]) == 0
    result = json.loads((tmp_path / "result.json").read_text())

    data = datasets.load("cifar100", data_dir=cifar100_folder)
    network = catalogue.build("resnet20", num_classes=100, image_shape=data.image_shape)
    load_weights(network, checkpoint)
    model = Classifier(network, data.mean, data.std).eval()
    x, y = to_pixels(data.test.images[:60]), data.test.labels[:60]
    found = pgd(model, x, y, eps=0.3 / 255, steps=3, seed=0)
    with torch.no_grad():
        clean, attacked = ((model(images).argmax(1) == y) for images in (x, found))
    accuracy = result["accuracy"]["float32"]
    assert accuracy["clean"]["correct"] == clean.sum()
    assert abs(accuracy["robust"]["correct"] - (clean & attacked).sum()) <= 1
    assert 0 < accuracy["robust"]["correct"] < accuracy["clean"]["correct"]
    assert [row["name"] for row in result["classes"][:2]] == ["apple", "aquarium_fish"]


def test_bfloat16_keeps_the_robust_accuracy(cifar100_folder, tmp_path):
    checkpoint = DATA / "checkpoints" / "cifar100_resnet20.pth"
    options = ["--model=resnet20", f"--checkpoint={checkpoint}", "--data=cifar100", f"--data-dir={cifar100_folder}"]
    robust = {}
    for dtype in ("float32", "bfloat16"):
        folder = tmp_path / dtype
        attack = ["--eps=0.3/255", "--steps=5", "--n=400", f"--dtype={dtype}"]
        assert main(["attack", "--out", str(folder), *options, *attack]) == 0
        result = json.loads((folder / "result.json").read_text())
        robust[dtype] = {judge: entry["robust"]["correct"] for judge, entry in result["accuracy"].items()}
    full = robust["float32"]["float32"]
    assert 0.2 < full / 400 < 0.5
    # On 2,000 images the difference is within 0.5 points; here one of 1 % is 4 images.
    assert abs(robust["bfloat16"]["float32"] - full) <= 4
    assert abs(robust["bfloat16"]["bfloat16"] - full) <= 4

"""`fastadv attack` on networks and data of one's own, which change, or are not what the catalogue has."""

import json
import signal
import subprocess
import sys

import numpy
import pytest
import torch

from fastadv.attacks.methods import autoattack as ensemble
from fastadv.train.cli import main
from fastadv.train.config.run_folder import read_origin

# A network without parameters: one of the means of three parts of the image is its logit.
MODULE = """
import os
import torch
from torch import nn

class Means(nn.Module):
    def forward(self, x):
        return torch.stack([part.mean((1, 2, 3)) for part in x.tensor_split(3, dim=3)], dim=1)

def means(num_classes, image_shape):
    return Means()

class Unseeded(Means):
    def __init__(self):
        super().__init__()
        generator = torch.Generator()
        generator.seed()
        self.scale = nn.Parameter(torch.rand((), generator=generator) + 1)

    def forward(self, x):
        return self.scale * super().forward(x)

def unseeded(num_classes, image_shape):
    return Unseeded()

class Detached(Means):
    def forward(self, x):
        return super().forward(x.detach())

def detached(num_classes, image_shape):
    return Detached()

class Broken(Means):  # where an image is brighter than those of the data
    def forward(self, x):
        return super().forward(x).masked_fill(x.flatten(1).amax(1, keepdim=True) > 2.0, float("nan"))

def broken(num_classes, image_shape):
    return Broken()

def images(channels, shift=0):
    torch.manual_seed(0)
    labels = torch.arange(24) % 3
    x = torch.rand(24, channels, 6, 6) * 0.4 + 0.3
    for image, label in zip(x, labels):
        image[:, :, 2 * label : 2 * label + 2] += 0.02
    split = x.roll(shift, 0), labels.roll(shift, 0)
    return split, split

def by_rank(): return images(1, shift=int(os.environ.get("RANK", 0)))
def one(): return images(1)
def two(): return images(2)
def three(): return images(3)
def four(): return images(4)
"""


ATTACK = ["attack", "--attack=autoattack", "--ensemble=apgd-ce", "--out=run"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current folder, with a module that no test leaves behind."""
    (tmp_path / "others.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ensemble, "_STEPS", 3)
    monkeypatch.setattr(ensemble, "_QUERIES", 5)
    yield tmp_path
    sys.modules.pop("others", None)
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]


def attack(*more, data="one", kind="autoattack"):
    options = ["--model=others:means", f"--data=others:{data}", f"--attack={kind}", "--eps=0.1", "--batch-size=8"]
    return main(["attack", "--out=run", *options, *more])


@pytest.mark.parametrize("kind", ["autoattack", "pgd"])
def test_images_that_changed_are_not_joined_with_those_of_before(here, capsys, kind):
    assert attack("--n=8", kind=kind) == 0
    module = here / "others.py"
    module.write_text(MODULE.replace("shift=0", "shift=1"))
    sys.modules.pop("others")
    before = (here / "run" / "result.json").read_text()
    assert main(["attack", "--resume", "--out=run", "--n=16"]) == 2
    assert "started with other values (Test images SHA-256 " in capsys.readouterr().err
    assert (here / "run" / "result.json").read_text() == before
    # The same images go on, and so does what was begun before their hash was kept.
    module.write_text(MODULE)
    sys.modules.pop("others")
    assert main(["attack", "--resume", "--out=run", "--n=16"]) == 0
    origin = read_origin(here / "run")
    del origin["Test images SHA-256"]
    (here / "run" / "origin.json").write_text(json.dumps(origin))
    assert main(["attack", "--resume", "--out=run", "--n=20"]) == 0


@pytest.mark.parametrize("data", ["two", "three", "four"])
def test_images_of_any_number_of_channels_are_reported_and_saved(here, capsys, data):
    assert attack("--ensemble=apgd-ce", "--save=images.npz", data=data) == 0
    assert "robust accuracy" in capsys.readouterr().out
    broken = json.loads((here / "run" / "result.json").read_text())["broken_by"].count(0)
    assert broken
    assert "![broken images](broken.png)" in (here / "run" / "report.md").read_text()
    assert (here / "run" / "broken.png").exists()
    with numpy.load(here / "images.npz") as arrays:
        assert arrays["images"].shape[1] == {"two": 2, "three": 3, "four": 4}[data]
    status = main(["attack", "--resume", "--out=run", "--save=pictures"])
    if data == "two":
        assert status == 2
        assert "save: 'pictures', but PNG holds images of 1, 3 or 4 channels, not 2" in capsys.readouterr().err
        assert not (here / "pictures").exists()
        # What was refused is not kept.
        assert main(["attack", "--resume", "--out=run"]) == 0
    else:
        assert status == 0
        assert len(list((here / "pictures").glob("*.png"))) == broken


def test_a_picture_that_cannot_be_drawn_costs_nothing_else(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert attack("--ensemble=apgd-ce", "--save=images.npz") == 0
    said = capsys.readouterr().out
    assert "note: no picture of broken images: the report's pictures needs matplotlib" in said
    assert "images.npz: 24 images in float32" in said
    assert (here / "run" / "result.json").exists()
    assert "broken.png" not in (here / "run" / "report.md").read_text()
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("save", "message"),
    [
        ("nowhere/images.npz", "save: 'nowhere/images.npz', but there is no folder nowhere"),
        ("folder.npz", "save: 'folder.npz' is a folder, expected a file NAME.npz"),
        ("file", "save: 'file', but file is no folder"),
        ("file/pictures", "save: 'file/pictures', but file is no folder"),
    ],
)
def test_an_impossible_place_is_found_before_the_attack(here, capsys, monkeypatch, save, message):
    (here / "folder.npz").mkdir()
    (here / "file").touch()
    monkeypatch.setattr(ensemble.AutoAttack, "advance", None)
    assert attack(f"--save={save}") == 2
    assert message in capsys.readouterr().err
    assert not (here / "run").exists()


def test_png_without_pillow_is_refused_before_the_attack(here, capsys, monkeypatch):
    monkeypatch.setattr(ensemble.AutoAttack, "advance", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert attack("--save=pictures") == 2
    assert "--save needs PIL" in capsys.readouterr().err
    assert not (here / "run").exists()
    monkeypatch.undo()


def test_a_table_is_printed_before_images_are_saved(here, capsys, monkeypatch):
    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numpy, "savez_compressed", full)
    assert attack("--ensemble=apgd-ce", "--save=images.npz") == 2
    said = capsys.readouterr()
    assert "| apgd-ce" in said.out
    assert "No space left on device" in said.err
    monkeypatch.undo()


@pytest.mark.parametrize(("model", "message"), [("detached", "differentiable"), ("broken", "NaN")])
def test_a_network_that_cannot_be_attacked_is_told_in_a_line(capsys, model, message):
    assert attack(f"--model=others:{model}") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastadv: error: autoattack: ")
    assert message in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_followed_by_what_was_found_so_far(here, capsys, monkeypatch, number):
    """In the middle of a pass, before the first of the stores that are made now and then."""
    advance, passes = ensemble.AutoAttack.advance, []

    def interrupted(self):
        passes.append(1)
        if len(passes) == 3:
            signal.raise_signal(number)
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(ensemble.AutoAttack, "advance", interrupted)
        assert attack() == 128 + number
    assert capsys.readouterr().err.endswith("fastadv: interrupted; fastadv attack --resume --out run continues\n")
    (stored,) = (here / "run" / "parts").glob("*.begun")
    assert "state" in torch.load(stored)
    loaded = []
    load = ensemble.AutoAttack.load_state_dict
    monkeypatch.setattr(
        ensemble.AutoAttack, "load_state_dict", lambda self, state: (loaded.append(1), load(self, state))
    )
    assert main(["attack", "--resume", "--out=run"]) == 0
    assert loaded == [1]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([*ATTACK, "--model=others:unseeded", "--data=others:one"], "model: 'others:unseeded' is not the same network"),
        ([*ATTACK, "--model=others:means", "--data=others:by_rank"], "data: 'others:by_rank' gives other test images"),
        (
            ["train", "--run-dir=run", "--student=others:means", "--data=others:by_rank", "--methods=ce"],
            "data: 'others:by_rank' gives other images in each of 2 processes",
        ),
    ],
)
def test_processes_that_would_see_different_things_are_refused(here, asked, message):
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*command, "-m", "fastadv", *asked], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode
    assert message in done.stderr
    assert not (here / "run").exists()


def test_what_is_there_and_what_extended_it_is_said(here, capsys):
    assert attack("--n=8") == 0
    assert "continuing" not in capsys.readouterr().out
    assert main(["attack", "--resume", "--out=run", "--n=16"]) == 0
    assert "continuing: 8 of 16 images are there" in capsys.readouterr().out
    assert "- Extended by: fastadv attack --resume --out=run --n=16" in (here / "run" / "report.md").read_text()
    assert main(["attack", "--resume", "--out=run"]) == 0
    assert read_origin(here / "run")["Extended by"] == "fastadv attack --resume --out=run --n=16"


def test_what_adds_nothing_is_no_extension(here):
    assert attack() == 0
    assert main(["attack", "--resume", "--out=run"]) == 0
    assert "Extended by" not in read_origin(here / "run")


def test_a_flag_of_another_attack_is_shown_as_it_was_typed(capsys):
    assert attack("--save=x.npz", kind="pgd") == 2
    assert "save: 'x.npz', but only autoattack has it" in capsys.readouterr().err

"""`fastadv attack --attack autoattack`: its report, resuming, extending, saving."""

import json
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from fastadv.attacks.methods import autoattack as ensemble
from fastadv.train import cli
from fastadv.train.data import datasets
from fastadv.train.data.splits import to_pixels
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier
from fastadv.train.networks.weights import load_weights
from fastadv.train.robustness import ensemble as running


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network that has seen the digits a few times."""
    dataset = datasets.load("digits", data_dir=None, image_size=None, device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = catalogue.build("digits_cnn", num_classes=10, image_shape=dataset.image_shape)
        classifier = Classifier(network, dataset.mean, dataset.std)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(15):
            rows = torch.randperm(len(dataset.train))[:128]
            optimizer.zero_grad()
            cross_entropy(classifier(to_pixels(dataset.train.images[rows])), dataset.train.labels[rows]).backward()
            optimizer.step()
    file = tmp_path_factory.mktemp("network") / "weights.pt"
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(ensemble, "_STEPS", 5)
    monkeypatch.setattr(ensemble, "_QUERIES", 10)


def command(checkpoint, *more):
    common = ["attack", "--checkpoint", str(checkpoint), "--attack", "autoattack", "--eps", "0.1", "--batch-size", "16"]
    return cli.main([*common, *map(str, more)])


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_the_report(checkpoint, tmp_path, capsys):
    out, images = tmp_path / "run", tmp_path / "images.npz"
    assert command(checkpoint, "--n", 40, "--out", out, "--save", images) == 0
    found = result(out)
    assert [stage["attack"] for stage in found["stages"]] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert found["images"] == len(found["broken_by"]) == 40
    assert found["robust"]["correct"] == found["broken_by"].count(-1)
    assert found["clean"]["correct"] == 40 - found["broken_by"].count(-2)
    assert sum(stage["broken"] for stage in found["stages"]) == found["clean"]["correct"] - found["robust"]["correct"]
    assert found["largest_distance"] <= 0.1 * (1 + 1e-6)
    low, high = found["robust"]["interval"]
    assert low <= found["robust"]["accuracy"] <= high
    assert sum(entry["robust"] for entry in found["classes"]) == found["robust"]["correct"]
    report = (out / "report.md").read_text()
    assert "apgd-t" in report
    assert (out / "broken.png").exists() == ("broken.png" in report) == any(stage >= 0 for stage in found["broken_by"])
    with numpy.load(images) as arrays:
        assert arrays["images"].shape == (40, 1, 8, 8)
        assert arrays["broken_by"].tolist() == found["broken_by"]
    said = capsys.readouterr().out
    assert "images in float32" in said
    lines = [line for line in said.splitlines() if "is over" in line]
    for line, stage in zip(lines, found["stages"][:3], strict=True):
        bound = f"robust accuracy at most {100 * stage['robust']['accuracy']:.2f} %"
        assert line.startswith(f"{stage['attack']} is over: {stage['broken']} of {stage['attacked']} images broken")
        assert line.endswith(bound + (" after all white-box attacks" if stage["attack"] == "fab-t" else ""))


def test_it_goes_on_where_it_was_cut_off_and_to_more_images(checkpoint, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert command(checkpoint, "--n", 30, "--out", whole) == 0
    monkeypatch.setattr(running, "SECONDS_BETWEEN_STORES", 0.0)
    advance, passes = ensemble.AutoAttack.advance, []

    def cut_off(self):
        passes.append(1)
        if len(passes) == 25:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(ensemble.AutoAttack, "advance", cut_off)
    assert command(checkpoint, "--n", 20, "--out", parts) == 130
    assert not (parts / "result.json").exists()
    # What is there is of another radius.
    assert command(checkpoint, "--n", 20, "--out", parts, "--eps", 0.5) == 2
    assert cli.main(["attack", "--out", str(parts), "--resume"]) == 0
    assert result(parts)["images"] == 20
    assert cli.main(["attack", "--out", str(parts), "--resume", "--n", "30"]) == 0
    assert result(parts)["broken_by"] == result(whole)["broken_by"]
    found = [torch.load(file)["places"].tolist() for file in sorted((parts / "parts").glob("*.pt"))]
    assert found == [[*range(20)], [*range(20, 30)]]
    assert result(parts)["robust"] == result(whole)["robust"]
    assert cli.main(["attack", "--out", str(parts), "--resume", "--eps", "0.5"]) == 2
    # Nothing is left to attack; the images are saved all the same.
    made = len(passes)
    assert cli.main(["attack", "--out", str(parts), "--resume", "--save", str(tmp_path / "later.npz")]) == 0
    assert len(passes) == made
    with numpy.load(tmp_path / "later.npz") as arrays:
        assert arrays["broken_by"].tolist() == result(whole)["broken_by"]


def test_no_process_runs_before_all_have_listed_what_was_begun(tmp_path, monkeypatch):
    """The list decides who goes on with which part, and a part that is over leaves it."""
    events = []
    monkeypatch.setattr(running, "_barrier", lambda processes: events.append("barrier"))
    monkeypatch.setattr(running, "_read", lambda file: {})
    monkeypatch.setattr(running, "_finished", lambda folder: [])
    monkeypatch.setattr(running, "_joined", lambda parts, images: None)
    monkeypatch.setattr(running, "_run", lambda config, prepared, file, begun, processes: events.append(file.name))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part.begun").touch()
    running.run_autoattack(None, SimpleNamespace(images=0), tmp_path, SimpleNamespace(rank=0, count=1))
    assert events[:2] == ["barrier", "part.begun"]


def test_warnings_are_of_all_parts_together():
    """Square breaks one of 1,000 images, which is one of 250 in its part."""

    def part(first, broken_by):
        places = torch.arange(first, first + 250)
        stages = torch.full([250], -1)
        stages[0] = broken_by
        return running.Evaluated(
            places, torch.zeros(250, 1, 1, 1), stages, ("apgd-t", "square"), (1.0, 1.0), (3, 0), ("odd",)
        )

    joined = running._joined([part(0, 1), part(250, -1), part(500, -1), part(750, -1)], 1000)
    odd, zeros = joined.result().warnings
    assert odd == "odd"
    assert zeros.startswith("apgd-t: the gradient is zero everywhere at the start of 12 searches")
    assert "breaks 0.4% of the images beyond" in running._joined([part(0, 1)], 250).result().warnings[-1]


@pytest.mark.parametrize("levels", [3, 25.5])
def test_png_of_8_bits_stay_in_the_ball(checkpoint, tmp_path, capsys, levels):
    """How many of them still count is said as they are read again."""
    folder = tmp_path / "png"
    more = ("--eps", f"{levels}/255", "--n", 200, "--ensemble", "apgd-ce")
    assert command(checkpoint, *more, "--out", tmp_path / "run", "--save", folder) == 0
    broken = [place for place, stage in enumerate(result(tmp_path / "run")["broken_by"]) if stage >= 0]
    assert sorted(int(file.stem) for file in folder.glob("*.png")) == broken
    dataset = datasets.load("digits")
    network = catalogue.build("digits_cnn", num_classes=10, image_shape=dataset.image_shape)
    load_weights(network, checkpoint)
    classifier = Classifier(network, dataset.mean, dataset.std).eval()
    counts = 0
    for place in broken:
        read = torch.from_numpy(numpy.array(Image.open(folder / f"{place:07d}.png"))).view(1, 1, 8, 8)
        clean = to_pixels(dataset.test.images[place : place + 1])
        assert (to_pixels(read) - clean).abs().max() <= levels / 255 + 1e-6
        counts += int(classifier(to_pixels(read)).argmax(1) != dataset.test.labels[place])
    assert counts > 0
    said = f"{len(broken)} broken images as 8-bit PNG, of which {counts} still count: misclassified and in the ball"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "3"], "but autoattack has no steps"),
        (["--norm", "l3"], "norm: 'l3'"),
        (["--save", "images.zip"], "expected a file NAME.npz"),
        (["--ensemble", "fast"], "ensemble: 'fast', expected one of standard, plus, rand, apgd-ce"),
        (["--ensemble", "square,fab_t"], "ensemble: 'fab_t'"),
        (["--ensemble", "square,square"], "ensemble: 'square,square', expected each attack once"),
        (["--ensemble", "plus", "--norm", "l1"], "ensemble: 'plus', but of l1"),
        (["--attack", "pgd", "--save", "x.npz"], "but only autoattack has it"),
    ],
)
def test_errors(checkpoint, tmp_path, capsys, flags, message, monkeypatch):
    """They are said before anything is loaded."""
    monkeypatch.setattr(datasets, "load", None)
    assert command(checkpoint, "--n", 4, "--out", tmp_path / "run", *flags) == 2
    assert message in capsys.readouterr().err

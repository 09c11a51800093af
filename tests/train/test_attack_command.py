"""`fastadv attack` on the digits: its numbers against plain loops, its files, its errors."""

import json
import os
import signal
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
import torch

from fastadv import attacks
from fastadv.attacks import apgd, fab, pgd, svgd
from fastadv.attacks.model.timed import TimedNetwork
from fastadv.train.cli import main
from fastadv.train.config.attacks import ATTACKS
from fastadv.train.data import datasets
from fastadv.train.data.splits import to_pixels
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier
from fastadv.train.networks.weights import load_weights
from fastadv.train.report.intervals import wilson

EPS = 0.06


def arguments(small_run, *more):
    return ["--model=digits_small", f"--checkpoint={small_run / 'weights.pt'}", f"--eps={EPS}", "--steps=4", *more]


def attacked(folder, *options):
    """The result of a command that must succeed."""
    assert main(["attack", "--out", str(folder), *map(str, options)]) == 0
    return json.loads((folder / "result.json").read_text())


def numbers(result):
    """What does not depend on the clock, the command line or the machine."""
    return {name: value for name, value in result.items() if name not in ("seconds", "origin")}


def share(result, kind, judge="float32"):
    return result["accuracy"][judge][kind]


@pytest.fixture(scope="module")
def student(small_run):
    """The network as a plain module, the test pixels and labels."""
    data = datasets.load("digits")
    network = catalogue.build("digits_small", num_classes=10, image_shape=data.image_shape)
    load_weights(network, small_run / "weights.pt")
    model = Classifier(network, data.mean, data.std).eval()
    return model, to_pixels(data.test.images), data.test.labels


@pytest.fixture(scope="module")
def finished(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack") / "result"
    return folder, attacked(folder, *arguments(small_run, "--batch-size=75", "--seed=3"))


def correct(model, x, labels):
    with torch.no_grad():
        return model(x).argmax(1) == labels


def test_the_numbers_are_those_of_a_plain_loop(finished, student):
    _, result = finished
    model, x, labels = student
    clean = correct(model, x, labels)
    robust = clean & correct(model, pgd(model, x, labels, eps=EPS, steps=4, seed=3), labels)
    assert share(result, "clean")["correct"] == clean.sum()
    # The frozen copy rounds differently; an image that hangs by that may fall.
    assert abs(share(result, "robust")["correct"] - robust.sum()) <= 1
    assert 0.05 < share(result, "robust")["accuracy"] < share(result, "clean")["accuracy"] - 0.2
    assert result["largest_distance"] == pytest.approx(EPS, abs=2**-24)


def test_the_schema(finished):
    _, result = finished
    assert list(result) == [
        *("model", "data", "split", "selection", "images", "attack", "dtype", "judge", "accuracy", "classes"),
        *("largest_distance", "seconds", "origin"),
    ]
    assert (result["model"], result["data"], result["split"]) == ("digits_small", "digits", "test")
    assert (result["selection"], result["images"], result["judge"]) == ("first", 500, "float32")
    assert result["attack"].items() >= {"name": "pgd", "eps": EPS, "steps": 4, "seed": 3, "norm": "linf"}.items()
    for kind in ("clean", "robust"):
        entry = share(result, kind)
        assert entry["accuracy"] == entry["correct"] / 500
        assert entry["interval"] == list(wilson(entry["correct"], 500))
        assert sum(row[kind] for row in result["classes"]) == entry["correct"]
    assert [(row["name"], row["images"]) for row in result["classes"]] == [(str(digit), 50) for digit in range(10)]
    seconds = result["seconds"]
    assert seconds["attack"] == pytest.approx(seconds["model"] + seconds["update"])
    assert min(seconds.values()) > 0
    assert len(result["origin"]["Checkpoint SHA-256"]) == 64


def test_the_first_steps_of_a_process_are_not_in_the_time(tmp_path, small_run, monkeypatch):
    """Torch loads and chooses much in them, which would be counted as time of the steps."""
    timed, calls = TimedNetwork.time, []

    def slow_at_first(self, run):
        calls.append(1)
        result, seconds, inside = timed(self, run)
        return result, seconds + (1000 if len(calls) == 1 else 0), inside

    monkeypatch.setattr(TimedNetwork, "time", slow_at_first)
    result = attacked(tmp_path / "result", *arguments(small_run, "--n=60", "--batch-size=30"))
    assert len(calls) == 3
    assert result["seconds"]["attack"] < 1000


def test_the_report_says_the_same(finished):
    folder, result = finished
    report = (folder / "report.md").read_text()
    for kind in ("clean", "robust"):
        entry = share(result, kind)
        low, high = (100 * bound for bound in entry["interval"])
        assert f"{entry['correct']} of 500" in report
        assert f"{low:.2f} to {high:.2f}" in report
    row = result["classes"][7]
    cells = [line.split("|") for line in report.splitlines() if line.startswith("| 7 ")]
    assert [cell.strip() for cell in cells[0][2:5]] == ["50", f"{2 * row['clean']}.0", f"{2 * row['robust']}.0"]
    assert f"{result['seconds']['model']:.1f} s of it in the network" in report


def test_random_starts_do_not_depend_on_the_batches(tmp_path, small_run, finished):
    other = attacked(tmp_path, *arguments(small_run, "--batch-size=500", "--seed=3"))
    assert abs(share(other, "robust")["correct"] - share(finished[1], "robust")["correct"]) <= 1


def test_n_takes_the_first_images(tmp_path, small_run, student):
    model, x, labels = student
    result = attacked(tmp_path, *arguments(small_run, "--n=137"))
    assert result["images"] == 137
    clean = correct(model, x[:137], labels[:137])
    assert share(result, "clean")["correct"] == clean.sum()
    for name, images in (("images", labels[:137]), ("clean", labels[:137][clean])):
        assert [row[name] for row in result["classes"]] == torch.bincount(images, minlength=10).tolist()


def test_an_image_stands_where_no_particle_fools_the_network(tmp_path, small_run, student):
    model, x, labels = student
    result = attacked(tmp_path, *arguments(small_run, "--attack=svgd", "--particles=3", "--n=200"))
    found = svgd(model, x[:200], labels[:200], eps=EPS, steps=4, particles=3, seed=0)
    single = [correct(model, found[:, particle], labels[:200]) for particle in range(3)]
    worst = correct(model, x[:200], labels[:200]) & torch.stack(single).all(0)
    assert abs(share(result, "robust")["correct"] - worst.sum()) <= 1
    assert worst.sum() < min(each.sum() for each in single)


def test_the_attacks_of_the_command_are_those_that_fit_it():
    """They are read from imports, without torch, which does not tell what an attack takes."""
    needed = {"y", "eps", "seed", "sample_ids"}
    fitting = {name for name, kind in attacks.ATTACKS.items() if needed <= signature(kind.function).parameters.keys()}
    assert fitting == {*ATTACKS}, "the others in fastadv/train/config/attacks.py"


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_of_the_catalogue(tmp_path, small_run, name):
    checkpoint = f"--checkpoint={small_run / 'weights.pt'}"
    options = ["--model=digits_small", checkpoint, f"--attack={name}", "--n=100", "--batch-size=30"]
    # Square asks for no gradient, and gets few queries here.
    options += ["--queries=200"] * (name == "square")
    strong = attacked(tmp_path / "strong", *options, "--eps=20/255")
    assert share(strong, "robust")["correct"] < share(strong, "clean")["correct"] - (0 if name == "square" else 20)
    nothing = attacked(tmp_path / "nothing", *options, "--eps=0")
    assert share(nothing, "robust") == share(nothing, "clean")
    assert nothing["largest_distance"] == 0


@pytest.mark.parametrize(("attack", "norm"), [("pgd", "l2"), ("pgd", "l1"), ("apgd", "l1")])
def test_other_norms(tmp_path, small_run, attack, norm):
    eps = {"l2": 0.8, "l1": 4.0}[norm]
    options = arguments(
        small_run, f"--attack={attack}", f"--norm={norm}", f"--eps={eps}", "--n=100", "--restarts=2", "--loss=cw"
    )
    result = attacked(tmp_path, *options)
    assert result["largest_distance"] == pytest.approx(eps, rel=1e-3)
    assert share(result, "robust")["correct"] < share(result, "clean")["correct"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_judged_in_both(tmp_path, small_run, dtype):
    result = attacked(tmp_path, *arguments(small_run, f"--dtype={dtype}", "--n=100"))
    assert list(result["accuracy"]) == [dtype, "float32"]
    assert result["largest_distance"] <= EPS + 2**-24
    for kind in ("clean", "robust"):
        assert abs(share(result, kind)["correct"] - share(result, kind, dtype)["correct"]) <= 3
    assert f"judged in {dtype}" in (tmp_path / "report.md").read_text()


def test_checkpoints_of_the_trainer_are_taken(tmp_path, small_run, finished):
    newest = max((small_run / "checkpoints").glob("step-*.pt"))
    options = arguments(small_run, "--batch-size=75", "--seed=3")
    options[1] = f"--checkpoint={newest}"
    assert numbers(attacked(tmp_path, *options)) == numbers(finished[1])


# Seven batches of 75, the last of 50.
@pytest.mark.parametrize(("moment", "number", "there"), [("after", 2, 3), ("inside", 4, 4)])
def test_a_killed_run_continues_to_the_same_numbers(tmp_path, small_run, finished, capsys, moment, number, there):
    folder = tmp_path / "result"
    program = Path(__file__).with_name("attack_until_killed.py")
    options = ["--out", folder, *arguments(small_run, "--batch-size=75", "--seed=3", "--threads=1")]
    command = [sys.executable, "-W", "ignore", program, moment, str(number), *options]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "result.json").exists()
    saved = {path: path.stat().st_mtime_ns for path in (folder / "batches").glob("*.json")}
    assert len(saved) == there

    result = attacked(folder, "--resume")
    assert f"continuing: {there} of 7 batches are there" in capsys.readouterr().out
    assert numbers(result) == numbers(finished[1])
    for path, modified in saved.items():
        assert path.stat().st_mtime_ns == modified, f"{path.name} was made again"


def fails(capsys, *options):
    """The message of a command that must fail with status 2 and without a traceback."""
    capsys.readouterr()
    assert main(["attack", *map(str, options)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("fastadv: error: ")
    assert "Traceback" not in message
    return message


def test_what_cannot_be_continued(tmp_path, small_run, capsys):
    checkpoint = tmp_path / "weights.pt"
    checkpoint.write_bytes((small_run / "weights.pt").read_bytes())
    folder = tmp_path / "result"
    options = ["--model=digits_small", f"--checkpoint={checkpoint}", "--n=60", "--batch-size=20", "--steps=1"]
    attacked(folder, *options)
    assert "already holds a run" in fails(capsys, "--out", folder, *options)
    assert "steps 1 -> 2" in fails(capsys, "--out", folder, "--resume", "--steps=2")
    assert "b.pt: no such file" in fails(capsys, "--out", folder, "--resume", "--checkpoint=b.pt")
    batch = folder / "batches" / "batch-00001.json"
    batch.write_text(batch.read_text()[:40])
    assert "batch-00001.json: damaged" in fails(capsys, "--out", folder, "--resume")
    weights = torch.load(checkpoint)
    torch.save({name: value * 2 for name, value in weights.items()}, checkpoint)
    assert "Checkpoint SHA-256" in fails(capsys, "--out", folder, "--resume")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--attack=deepest", f"attack: 'deepest', expected one of {', '.join(ATTACKS)}, autoattack"),
        ("--model=resnet9", "model: 'resnet9'"),
        ("--eps=wide", "eps: 'wide'"),
        ("--eps=-1/255", "eps: "),
        ("--eps=8/0", "eps: '8/0'"),
        (
            "--eps=8",
            "eps: 8.0, expected at most 1, the width of the box: pixels are in [0, 1], and 8 of 255 levels are",
        ),
        ("--step-size=0", "step_size: 0"),
        ("--norm=l7", "norm must be one of 'linf', 'l2', 'l1', got 'l7'"),
        ("--loss=hinge", "loss must be one of"),
        ("--particles=2", "particles: 2, but pgd has no particles; it takes steps"),
        ("--targets=2", "targets: 2, but pgd has no targets; it takes steps"),
        ("--targets=0", "targets: 0, expected at least 1"),
        ("--dtype=float8", "dtype: 'float8'"),
        ("--device=tpu9", "device: 'tpu9'"),
        ("--device=meta", "device: 'meta', but there are no values on it"),
        ("--data=cifar100", "data_dir: None"),
        ("--n=501", "n: 501, expected at most 500"),
        ("--n=0", "n: 0, expected at least 1"),
        ("--model=digits_cnn", "no weights for digits_cnn (RuntimeError: Error(s) in loading state_dict"),
        (
            "--model=resnet8",
            "no weights for resnet8: missing conv1.weight, bn1.weight, bn1.bias, bn1.running_mean and ",
        ),
    ],
)
def test_errors_of_the_users_have_no_traceback(tmp_path, small_run, capsys, option, message):
    assert message in fails(capsys, "--out", tmp_path / "result", *arguments(small_run), option)
    assert not (tmp_path / "result").exists()


def test_a_large_radius_is_taken_where_it_is_meant(tmp_path, small_run):
    options = arguments(small_run, "--n=20", "--eps=8")
    assert share(attacked(tmp_path / "linf", *options, "--allow-large-eps"), "robust")["correct"] == 0
    assert attacked(tmp_path / "l2", *options, "--norm=l2")["attack"]["eps"] == 8


@pytest.mark.parametrize("loss", ["kl", "dlr"])
def test_other_losses(tmp_path, small_run, loss):
    result = attacked(tmp_path / "result", *arguments(small_run, f"--loss={loss}", "--n=100"))
    assert share(result, "robust")["accuracy"] < share(result, "clean")["accuracy"] - 0.1


@pytest.mark.parametrize("name", ["apgd", "fab"])
def test_targets_are_aimed_at_in_turn(tmp_path, small_run, student, name):
    model, x, labels = student
    how = {"variant": "autoattack", "loss": "dlr"} if name == "apgd" else {}
    robust = {}
    for targets in (1, 4):
        options = arguments(small_run, f"--attack={name}", f"--targets={targets}", "--n=150")
        result = attacked(tmp_path / str(targets), *options)
        assert result["attack"].items() >= {"targets": targets, "steps": 4, **how}.items()
        robust[targets] = share(result, "robust")["correct"]
        attack = {"apgd": apgd, "fab": fab}[name]
        found = attack(model, x[:150], labels[:150], eps=EPS, steps=4, targets=targets, seed=0, **how)
        assert abs(robust[targets] - correct(model, found, labels[:150]).sum()) <= 1
    assert robust[4] < robust[1]


@pytest.mark.parametrize("name", ["fgsm", "mi_fgsm"])
def test_restarts_start_apart(tmp_path, small_run, name):
    def robust(restarts):
        options = [option for option in arguments(small_run) if name != "fgsm" or "--steps" not in option]
        result = attacked(tmp_path / str(restarts), *options, f"--attack={name}", f"--restarts={restarts}", "--n=200")
        assert result["attack"]["random_start"] == (restarts > 1)
        return share(result, "robust")["correct"]

    # Random starts are another attack than the one from the image itself: of those, more leave fewer images.
    robust(1)
    assert robust(4) < robust(2)


def test_a_missing_checkpoint_is_named(tmp_path, capsys):
    assert "expected the file with the network's weights" in fails(capsys)
    assert "nowhere.pt: no such file" in fails(capsys, "--checkpoint", tmp_path / "nowhere.pt")


def test_the_progress_bar_is_missed_quietly(tmp_path, small_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    attacked(tmp_path, *arguments(small_run, "--n=20"))
    assert capsys.readouterr().err == ""

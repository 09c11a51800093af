"""The call behind ``make gpu-reproduce``, at tiny sizes on the CPU."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time

import gpu_check.__main__
import numpy as np
import pytest
from gpu_check.running import ROOT
from gpu_reproduce import pack, rehearsal, runs, summary
from gpu_reproduce.__main__ import RESERVED_SECONDS, TEACHER, main, parts_of
from gpu_reproduce.plan import TRAININGS, Plan, fitting_epochs
from gpu_reproduce.training import train

from fastadv.train.config.train_config import resolve
from fastadv.train.data import cifar, datasets
from fastadv.train.runtime.errors import DataError

SMALL = ["--no-compile", "--precision=float32", "--teacher-precision=float32"]


def begin(out, runs_folder, *more):
    """Start a call; its standard output is a pipe."""
    places = filter(None, (str(ROOT / "csrc" / "tools"), str(ROOT), os.environ.get("PYTHONPATH")))
    command = [sys.executable, "-m", "gpu_reproduce", "--rehearse", f"--out={out}", f"--runs={runs_folder}", *more]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_call_that_was_ended_is_carried_to_another_machine_and_goes_on(tmp_path):
    out, later, first, second = (tmp_path / name for name in ("out", "later", "first", "second"))
    asked = (
        "--parts=students",
        f"--flags={shlex.join(SMALL)} --no-capture --methods kd --epochs 20 --checkpoint-steps 1",
    )
    call = begin(out, first, *asked)
    while not list(first.glob("students/kd-seed0/checkpoints/*.pt")) and call.poll() is None:
        time.sleep(0.02)
    call.send_signal(signal.SIGTERM)
    said, _ = call.communicate(timeout=600)
    assert call.returncode == 143
    assert re.search(r"students: resnet8 \(1.00 % clean\) to resnet8, \d+ epochs, 0 of 1 finished", said)
    assert said.rstrip().endswith(f"all of it in {out}")
    with tarfile.open(out / "students.tar") as archive:
        names = archive.getnames()
    # The newest of two.
    assert len([name for name in names if name.startswith("students/kd-seed0/checkpoints/")]) == 1
    assert "students/config.toml" in names

    call = begin(later, second, *asked, f"--resume={out}")
    said, _ = call.communicate(timeout=600)
    assert call.returncode == 0
    assert f"students: goes on from {out / 'students.tar'}" in said
    assert "KD, seed 0: continuing after step" in said
    assert "compiling and capturing" not in said
    assert "1 of 1 finished" in said
    files = list(later.rglob("*"))
    assert {path.name for path in files} == {
        *("facts.json", "log.txt", "parts.jsonl", "results.json", "students.tar", "summary.txt"),
    }
    assert all(path.is_file() for path in files)


def test_a_training_is_planned_made_and_summed_up(tmp_path):
    data, out, folder = (tmp_path / each for each in ("data", "out", "runs"))
    rehearsal.write(data)
    out.mkdir()
    (folder / "speedrun" / "pgd-at-seed0").mkdir(parents=True)
    (folder / "speedrun" / "config.toml").write_text("epochs = 7")  # of which no step was saved
    briefly = ["--epochs=1", "--eval-samples=10", "--pgd-samples=4", "--eval-steps=1", "--option=pgd-at.steps=1"]
    flags = [*rehearsal.flags(data), *SMALL, *briefly, "--eval-attack=fgsm"]
    train(TRAININGS["speedrun"], folder / "speedrun", time.monotonic() + 600, out, "0,1", 1, flags)
    said = summary.write(out, folder, list(TRAININGS), runs.MIB // 10)
    (plan,) = (json.loads(line) for line in (out / "plan.jsonl").read_text().splitlines())
    assert (plan["run"], plan["students"], plan["epochs"], plan["most"]) == ("speedrun", 2, 1, 1)
    assert plan["step_seconds"].keys() == plan["compile_seconds"].keys() == {"pgd-at"}
    assert plan["step_seconds"]["pgd-at"] > 0
    assert "speedrun: 1 of 1 epochs for each of 2 students" in said.split("\ntime\n")[1]
    found = json.loads((out / "results.json").read_text())["runs"]["speedrun"]["students"]
    assert found.keys() == {"pgd-at-seed0", "pgd-at-seed1"}
    assert all(student["steps"] == 3 and student["attack"]["name"] == "fgsm" for student in found.values())
    assert "left behind: pgd-at-seed0/weights.pt, 0 MiB" in said
    assert not (folder / "speedrun-trial").exists()


def test_an_archive_holds_what_another_call_needs(tmp_path):
    run = tmp_path / "runs" / "students"
    for name in ("config.toml", "kd-seed0/result.json", "kd-seed0/weights.pt", ".lock", "tald-seed0/metrics.jsonl"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    for student in ("kd-seed0", "tald-seed0"):
        for step in (1, 2):
            path = run / student / "checkpoints" / f"step-{step:09d}.pt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("checkpoint")
    (run / "tald-seed0" / "large.pt").write_bytes(bytes(1001))
    runs.pack(run, tmp_path / "students.tar", 1000)
    assert list(tmp_path.glob("*.unfinished")) == []
    assert runs.unpack(tmp_path, tmp_path / "there", ["students", "speedrun"]) == [
        f"students: goes on from {tmp_path / 'students.tar'}",
        f"speedrun: {tmp_path} has no speedrun.tar",
    ]
    there = {str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert there == {
        "students/config.toml",
        "students/kd-seed0/result.json",
        "students/kd-seed0/weights.pt",
        "students/tald-seed0/checkpoints/step-000000002.pt",
        "students/tald-seed0/metrics.jsonl",
    }
    (tmp_path / "there" / "students" / "config.toml").write_text("later")
    assert "not from" in runs.unpack(tmp_path, tmp_path / "there", ["students"])[0]
    assert (tmp_path / "there" / "students" / "config.toml").read_text() == "later"


@pytest.mark.parametrize(("eval_attack", "kept"), [("autoattack", {1, 2}), ("pgd", {0, 1, 2})])
def test_a_student_to_be_attacked_whose_weights_were_left_behind_is_trained_anew(tmp_path, eval_attack, kept):
    run = tmp_path / "runs" / "speedrun"
    for seed, result in enumerate(({"clean": 0.5}, {"clean": 0.5, "attack": {}}, {"clean": 0.5})):
        (run / f"pgd-at-seed{seed}" / "attack").mkdir(parents=True)
        (run / f"pgd-at-seed{seed}" / "attack" / "attack.toml").touch()
        (run / f"pgd-at-seed{seed}" / "weights.pt").write_bytes(bytes(9 if seed == 2 else 1001))
        (run / f"pgd-at-seed{seed}" / "result.json").write_text(json.dumps(result))
    (run / "config.toml").write_text(f'eval_attack = "{eval_attack}"')
    runs.pack(run, tmp_path / "speedrun.tar", 1000)
    said = runs.unpack(tmp_path, tmp_path / "there", ["speedrun"])
    for name in ("result.json", "attack"):
        found = (tmp_path / "there").rglob(name)
        assert {int(path.parent.name.removeprefix("pgd-at-seed")) for path in found} == kept
    assert ("pgd-at-seed0 is trained anew" in said[-1]) == (0 not in kept)


def test_archives_are_brought_up_to_date_while_a_training_goes_on(tmp_path):
    folder, out = tmp_path / "runs", tmp_path
    with runs.keeping(folder, out, ["students"], 1000, seconds=0.01):
        assert not (out / "students.tar").exists()
        (folder / "students").mkdir(parents=True)
        (folder / "students" / "config.toml").write_text("")
        for _ in range(500):
            if (out / "students.tar").exists():
                break
            time.sleep(0.01)
        assert (out / "students.tar").exists()
        (folder / "students" / "late").write_text("")
    with tarfile.open(out / "students.tar") as archive:
        assert "students/late" in archive.getnames()


def test_as_many_epochs_as_fit_are_trained():
    assert fitting_epochs(0.01, 100, 10.0, most=240) == 8
    assert fitting_epochs(0.01, 100, 1000.0, most=240) == 240
    assert fitting_epochs(1.0, 100, 10.0, most=240) == 1


def test_the_parts_fit_into_the_call():
    assert 15 + sum(part.share for part in parts_of(ROOT)) == 540 - RESERVED_SECONDS


@pytest.mark.parametrize("name", TRAININGS)
def test_a_recipe_has_one_shape_of_batch(name, tmp_path):
    config = resolve(recipe=TRAININGS[name].recipe, flags={"data_dir": str(tmp_path)})
    assert config.steps_per_epoch == 50_000 // config.batch_size
    assert (config.precision, config.compile, config.capture, config.channels_last) == ("bfloat16", True, True, True)
    config.check_used()


def test_the_tiny_set_is_read_as_cifar100_is(tmp_path):
    rehearsal.write(tmp_path)
    train, test = rehearsal.read(tmp_path)
    assert [len(images) for images, _ in (train, test)] == [200, 100]
    dataset = datasets.load("gpu_reproduce.rehearsal:read", data_dir=tmp_path)
    assert len(dataset.class_names) == 100


def test_the_page_has_the_first_images_of_an_attack_that_is_not_over(tmp_path):
    student = tmp_path / "runs" / "speedrun" / "pgd-at-seed0"
    (student / "attack").mkdir(parents=True)
    (student.parent / "config.toml").write_text("seeds = [0]\nmethods = ['pgd-at']\nstudent = 'resnet18'\nepochs = 9")
    result = {"clean": 0.5, "pgd": 0.3, "steps": 9, "seconds": 1.0, "images_per_second": 10.0}
    for first, shown in (({}, ["-", "-"]), ({"images": 200, "robust": {"accuracy": 0.25}}, ["25.00", "200"])):
        (student / "result.json").write_text(json.dumps(result))
        (student / "attack" / "result.json").write_text(json.dumps(first))
        page = summary.write(tmp_path, tmp_path / "runs", ["speedrun"], 1000)
        assert next(line for line in page.splitlines() if "pgd-at-seed0" in line).split()[3:5] == shown
    (student / "result.json").write_text(json.dumps({**result, "attack": {"images": 1000, "accuracy": 0.24}}))
    assert "24.00        1000" in summary.write(tmp_path, tmp_path / "runs", ["speedrun"], 1000)


def test_a_training_that_fails_is_tried_with_less(monkeypatch, tmp_path):
    assert [part.steps[0].instead for part in parts_of(ROOT)] == [("--no-compile", "--no-capture")] * 2
    asked = []
    monkeypatch.setattr("gpu_reproduce.training.fastadv", lambda arguments: asked.append(arguments) or 3)
    begin = (TRAININGS["students"], tmp_path / "students", time.monotonic() + 60, tmp_path, "0", 1)
    with pytest.raises(SystemExit):
        train(*begin, ["--no-compile"])
    # What was begun goes on as it was.
    (tmp_path / "students" / "kd-seed0").mkdir(parents=True)
    (tmp_path / "students" / "kd-seed0" / "result.json").touch()
    (tmp_path / "students" / "config.toml").write_text("epochs = 7")
    with pytest.raises(SystemExit):
        train(*begin, ["--no-compile", "--device=cpu"])
    assert ["--no-compile" in arguments for arguments in asked] == [True, False]
    assert "--device=cpu" in asked[1]


def test_the_page_says_what_is_not_finished():
    plan = Plan("students", 225, {"kd": 0.004}, {"kd": 30.0}, 1, 20, 240)
    run = {
        "config": {"teacher": "resnet56", "student": "resnet20", "epochs": 20, "steps_per_epoch": 390},
        "teacher": {"clean": 0.7263},
        "students": {"kd-seed0": {"saved_steps": 780}},
        "left_behind": {"kd-seed0/weights.pt": 45 * runs.MIB},
    }
    page = summary.page({"facts": {}, "parts": [], "plans": [vars(plan)], "runs": {"students": run}})
    assert "20 of 240 epochs for each of 1 students in 225 s; a step takes kd 4.00 ms; compiling and capturing" in page
    assert "students: resnet56 (72.63 % clean) to resnet20, 20 epochs, 0 of 1 finished" in page
    assert "not finished: 780 steps are saved, 7020 are left" in page
    assert "left behind: kd-seed0/weights.pt, 45 MiB" in page


def a_set(count=150):
    """CIFAR-100's names, and images of all that a prediction can be wrong about: noise, slopes, extremes."""
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    images[::3] = np.arange(32, dtype=np.uint8) * 8
    images[1::3] = images[1::3] // 128 * 255
    splits = {"train": (images, [label % 100 for label in range(count)]), "test": (images[:100], list(range(100)))}
    return splits, [f"name {label}" for label in range(100)]


def test_parts_of_a_set_are_no_larger_than_asked_and_give_it_back(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "LOT", 60)
    splits, names = a_set()
    pack.pack(splits, names, tmp_path, 20_000)
    parts = pack.pack(splits, names, tmp_path, 100_000)
    assert sorted(tmp_path.glob("*")) == parts
    assert len(parts) > 1
    assert max(part.stat().st_size for part in parts) <= 100_000
    place, packed = pack.find(tmp_path, tmp_path / "data")
    pack.unpack(packed, place)
    assert pack.find(tmp_path, tmp_path / "data") == (place, b"")
    stored = cifar.read(cifar.CIFAR100, place, {"train": 150, "test": 100})
    assert stored.class_names == tuple(names)
    for split, (images, labels) in splits.items():
        np.testing.assert_array_equal(stored.splits[split][0], images)
        assert stored.splits[split][1].tolist() == labels


def test_parts_that_are_missing_or_damaged_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"holds neither cifar-100-python nor .* nor cifar-100.part-I-of-N"):
        pack.find(tmp_path, tmp_path / "data")
    first, second, *_ = pack.pack(*a_set(), tmp_path, 100_000)
    content = bytearray(first.read_bytes())
    content[5000] ^= 1
    first.write_bytes(content)
    with pytest.raises(ValueError, match="are damaged"):
        pack.find(tmp_path, tmp_path / "data")
    second.unlink()
    with pytest.raises(ValueError, match=f"nor {second.name}"):
        pack.find(tmp_path, tmp_path / "data")
    pack.write_pickles(tmp_path, *a_set())
    with pytest.raises(ValueError, match="expected at least 153600000"):
        pack.find(tmp_path, tmp_path / "data")


def test_data_and_checkpoint_are_looked_for_before_anything_starts(tmp_path, monkeypatch, capsys):
    out, given = tmp_path / "out", tmp_path / "given"
    command = ["gpu_reproduce", f"--data-dir={given}", f"--checkpoints={given}", f"--out={out}", "--dry-run"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match=f"holds no {TEACHER}"):
        main()
    given.mkdir()
    (given / TEACHER).touch()
    for more in ([], ["--dry-run"]):
        monkeypatch.setattr("sys.argv", [*command[:-1], *more])
        with pytest.raises(SystemExit, match=f"--data-dir {given} holds neither"):
            main()
    pack.pack(*a_set(), given, 10**9)
    main()
    assert f"--teacher-checkpoint {given / TEACHER}" in capsys.readouterr().out
    assert not out.exists()


def test_what_csrc_readme_has_one_type_is_understood(tmp_path, monkeypatch, capsys):
    """Of the calls on a GPU: the lines for make, and the options that they and the packing give to a program."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "csrc" / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [line.partition("  #")[0] for block in blocks for line in block.splitlines()]
    made = [
        subprocess.run(
            ["sh", "-c", line.replace("make ", "make -n PYTHON=PYTHON ")], cwd=ROOT, capture_output=True, text=True
        )
        for line in lines
        if "make gpu-" in line
    ]
    assert [run.stderr for run in made if run.returncode] == []
    commands = [run.stdout.replace("\\\n", " ") for run in made if "PYTHON -m gpu_" in run.stdout]
    assert len(commands) == 2
    pack.write_pickles(tmp_path, *a_set())
    (packing,) = (shlex.split(line) for line in lines if "gpu_reproduce.pack" in line)
    with pytest.raises(DataError, match="train has 150 images"):
        pack.main([tmp_path.as_posix() if word == "DIR" else word for word in packing[packing.index("DIR") :]])
    monkeypatch.chdir(tmp_path)
    pack.pack(*a_set(), tmp_path / "build" / "carried", 10**9)
    (tmp_path / "build" / "carried" / TEACHER).touch()
    for command, run in zip(commands, (gpu_check.__main__.main, main), strict=True):
        words = shlex.split(command)
        monkeypatch.setattr("sys.argv", [*words[words.index("-m") + 1 :], "--dry-run"])
        run()
    assert "gpu_check.facts" in capsys.readouterr().out

"""`fastadv train --eval-attack`: finished students meet another attack than the trainer's PGD."""

import json
from types import SimpleNamespace

import pytest

from fastadv.attacks.methods import autoattack as ensemble
from fastadv.train import cli
from fastadv.train.loop import experiment
from fastadv.train.report.results import read_results
from fastadv.train.report.training_report import protocol, result_table
from fastadv.train.robustness import ensemble as running, students

COMMON = [
    "--methods=ce",
    "--student-samples=200",
    "--batch-size=50",
    "--epochs=6",
    "--eval-steps=1",
    "--no-tensorboard",
]
COMMON += ["--eval-samples=30", "--eval-eps=0.05", "--schedule=step", "--milestones=1"]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(ensemble, "_STEPS", 5)
    monkeypatch.setattr(ensemble, "_QUERIES", 10)


def train(folder, *arguments):
    return cli.main(["train", "--run-dir", str(folder), *map(str, arguments)])


def result(folder):
    return json.loads((folder / "result.json").read_text())


def attacked_by_hand(student, out, *more):
    options = ["--model=digits_small", "--checkpoint", student / "weights.pt", "--eps=0.05", "--n=30", "--out", out]
    assert cli.main(["attack", *map(str, [*options, *more])]) == 0
    return result(out)


def test_autoattack_tells_of_the_first_images_first(tmp_path, monkeypatch, capsys):
    evaluate, student = students.ensemble_report.evaluate, tmp_path / "run" / "ce-seed0"

    def cut_off(config, *given, **options):
        if config.n == 30:
            raise KeyboardInterrupt
        return evaluate(config, *given, **options)

    monkeypatch.setattr(students, "FIRST_IMAGES", 10)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(students.ensemble_report, "evaluate", cut_off)
        assert train(tmp_path / "run", *COMMON, "--seeds=0", "--eval-attack=autoattack") == 130
    first = result(student / "attack")
    assert first["images"] == 10
    assert "attack" not in result(student)
    assert train(tmp_path / "run", "--resume") == 0
    expected = attacked_by_hand(student, tmp_path / "by-hand", "--attack=autoattack")
    assert result(student)["attack"] == {"name": "autoattack", "images": 30, **expected["robust"]}
    assert result(student / "attack")["broken_by"] == expected["broken_by"]
    assert expected["broken_by"][:10] == first["broken_by"]


def test_autoattack_gives_what_the_attack_command_gives(tmp_path, monkeypatch, capsys):
    run, folders = tmp_path / "run", [tmp_path / "run" / f"ce-seed{seed}" for seed in (0, 1)]
    advance, passes = ensemble.AutoAttack.advance, []

    def cut_off(self):
        passes.append(1)
        if len(passes) == 20:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(running, "SECONDS_BETWEEN_STORES", 0.0)
    monkeypatch.setattr(ensemble.AutoAttack, "advance", cut_off)
    assert train(run, *COMMON, "--seeds=0,1", "--eval-attack=autoattack") == 130
    trained = [(student / "weights.pt").stat().st_mtime_ns for student in folders]
    assert "attack" not in result(folders[0])
    assert train(run, "--resume") == 0
    assert [(student / "weights.pt").stat().st_mtime_ns for student in folders] == trained
    for seed, student in enumerate(folders):
        found = result(student)["attack"]
        expected = attacked_by_hand(student, tmp_path / f"by-hand-{seed}", "--attack=autoattack")
        assert found == {"name": "autoattack", "images": 30, **expected["robust"]}
        assert 0 < found["accuracy"] < result(student)["clean"]
        assert result(student / "attack")["broken_by"] == expected["broken_by"]
    report = (run / "report.md").read_text()
    assert "accuracy under autoattack, %" in report
    assert "| clean / PGD / autoattack, % | seed 0 " in report
    mean = sum(100 * result(student)["attack"]["accuracy"] for student in folders) / 2
    assert f"{mean:.2f}" in next(line for line in report.splitlines() if line.startswith("| plain (CE)"))
    capsys.readouterr()
    assert train(run, "--resume", "--eval-attack=pgd") == 2
    assert "eval_attack 'autoattack' -> 'pgd'" in capsys.readouterr().err


def test_an_attack_by_name_and_again_after_more_epochs(tmp_path):
    run, student = tmp_path / "run", tmp_path / "run" / "ce-seed0"
    assert train(run, *COMMON, "--seeds=0", "--eval-attack=fgsm") == 0
    judged = attacked_by_hand(student, tmp_path / "by-hand", "--attack=fgsm")["accuracy"]["float32"]["robust"]
    assert result(student)["attack"] == {"name": "fgsm", "images": 30, **judged}
    before = (student / "attack" / "result.json").read_text()
    assert train(run, "--resume") == 0
    assert (student / "attack" / "result.json").read_text() == before
    assert train(run, "--resume", "--epochs=8") == 0
    judged = attacked_by_hand(student, tmp_path / "later", "--attack=fgsm")["accuracy"]["float32"]["robust"]
    assert result(student)["attack"] == {"name": "fgsm", "images": 30, **judged}
    assert (student / "attack" / "result.json").read_text() != before


def test_a_run_of_an_earlier_version_had_pgd_alone(tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, *COMMON, "--seeds=0") == 0
    assert not (run / "ce-seed0" / "attack").exists()
    config = run / "config.toml"
    assert 'eval_attack = "pgd"\n' in config.read_text()
    config.write_text(config.read_text().replace('eval_attack = "pgd"\n', ""))
    assert train(run, "--resume") == 0
    capsys.readouterr()
    assert train(run, "--resume", "--eval-attack=autoattack") == 2
    assert "eval_attack 'pgd' -> 'autoattack'" in capsys.readouterr().err
    stored = json.loads((run / "results.json").read_text())
    del stored["config"]["eval_attack"]
    (run / "results.json").write_text(json.dumps(stored))
    earlier = read_results(run)
    assert "images/s" in result_table(earlier)
    assert not any("attack/report.md" in line for line in protocol(earlier))


def test_a_name_that_is_none_is_refused_at_once(tmp_path, capsys):
    assert train(tmp_path / "run", "--eval-attack=autoatack") == 2
    assert "eval_attack: 'autoatack', did you mean autoattack? expected one of apgd" in capsys.readouterr().err


def test_several_processes_have_no_other_attack_than_those_that_share(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "Processes", lambda: SimpleNamespace(count=2))
    assert train(tmp_path / "run", *COMMON, "--eval-attack=fgsm") == 2
    assert "eval_attack: 'fgsm' runs in one process, expected pgd or autoattack" in capsys.readouterr().err

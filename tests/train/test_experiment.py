"""One small job on the digits, and what it leaves behind."""

import json
import shutil
import statistics
import sys

import pytest
import torch

from fastadv.attacks import pgd
from fastadv.distill.parts.seeding import derive_seed
from fastadv.train.cli import main
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import to_pixels
from fastadv.train.loop.evaluation import ATTACK_SEED, accuracy, evaluate
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.networks import catalogue
from fastadv.train.networks.weights import load_weights
from fastadv.train.report.results import read_results
from fastadv.train.report.tables import mean_and_spread, render_table
from fastadv.train.runtime.metrics import read_metrics

ARGUMENTS = [
    *("--seeds=0,1", "--teacher-epochs=5", "--student-samples=100", "--batch-size=50", "--epochs=6", "--eval-epochs=3"),
    *("--log-steps=4", "--option=tald.steps=1", "--eval-steps=2", "--eval-samples=100"),
]
THREADS_BEFORE = torch.get_num_threads()
STUDENTS = [f"{method}-seed{seed}" for method in ("ce", "kd", "tald") for seed in (0, 1)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run without TensorBoard installed: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("experiment") / "run"
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        patch.setattr("builtins.print", lambda *values, **options: printed.append(" ".join(map(str, values))))
        assert main(["train", "--run-dir", str(folder), *ARGUMENTS]) == 0
    return folder, "\n".join(printed)


def results(folder, *names):
    return [json.loads((folder / name / "result.json").read_text()) for name in names]


def test_the_folder_holds_everything(run):
    folder, _ = run
    for name in ("teacher", *STUDENTS):
        assert {"metrics.jsonl", "weights.pt", "result.json", "checkpoints"} == {
            entry.name for entry in (folder / name).iterdir()
        }
    for picture in ("curves.png", "particles.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    assert resolve(recipe=str(folder / "config.toml")).epochs == 6


def test_metrics_are_at_the_steps_asked_for(run):
    folder, _ = run
    rows = read_metrics(folder / "tald-seed1", "train")
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert {"loss", "kd", "tald", "repulsion", "lr"} <= rows[0].keys()
    assert [row["step"] for row in read_metrics(folder / "tald-seed1", "test")] == [6, 12]


def test_the_report_shows_the_numbers_of_the_results(run):
    folder, printed = run
    report = (folder / "report.md").read_text()
    for method in ("ce", "kd", "tald"):
        found = results(folder, f"{method}-seed0", f"{method}-seed1")
        for key in ("clean", "pgd"):
            mean = statistics.mean(100 * result[key] for result in found)
            spread = abs(found[0][key] - found[1][key]) * 100 / 2**0.5
            assert f"{mean:.2f} ± {spread:.2f}" in report
        for result in found:
            assert f"{100 * result['clean']:.2f} / {100 * result['pgd']:.2f}" in report
    assert f"{100 * results(folder, 'teacher')[0]['clean']:.2f}" in report
    assert "n = 2 seeds" in report
    assert "Teacher: one network, trained on all 1297 training images, plain (CE)." in report
    assert "| TALD + KD | " in report[report.index("## Repulsion of particles") :]
    for fact in (
        "curves.png",
        "particles.png",
        "- CPU:",
        "torch",
        "- Command: fastadv train --run-dir",
        "svgd_step",
        "start, 100 test images",
    ):
        assert fact in report
    table = report[report.index("| method") : report.index("\n\nStudents")]
    assert table in printed
    assert str(folder) in printed.splitlines()[-1]


def test_the_report_compares_with_kd_seed_by_seed(run):
    folder, _ = run
    report = (folder / "report.md").read_text()
    section = report[report.index("## Seed by seed") : report.index("## Each seed")]
    differences = {
        name: [
            100 * (a["clean"] - b["clean"]) for a, b in zip(results(folder, *ours), results(folder, *kds), strict=True)
        ]
        for name, ours in (("plain (CE)", ("ce-seed0", "ce-seed1")), ("TALD + KD", ("tald-seed0", "tald-seed1")))
        for kds in [("kd-seed0", "kd-seed1")]
    }
    for name, (first, second) in differences.items():
        # Of two values, t is 12.706 and s / sqrt(2) half their distance.
        mean, half = (first + second) / 2, 12.7062 * abs(first - second) / 2
        (line,) = [line for line in section.splitlines() if line.startswith(f"| {name} ")]
        assert f"| {mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]" in line
        assert line.endswith("| 2     |")


def test_results_hold_the_table_in_numbers(run):
    folder, _ = run
    found = read_results(folder)
    assert found.title == "digits_cnn to digits_small on digits"
    assert (found.train_images, found.test_images) == (1297, 500)
    assert (found.config["epochs"], found.config["options"]["tald"]["steps"]) == (6, 1)
    assert found.origin["Command"].startswith("fastadv train --run-dir")
    assert found.teacher == results(folder, "teacher")[0]
    for method in found.methods:
        folders = [f"{method.name}-seed{seed}" for seed in (0, 1)]
        expected = [{"seed": seed, **result} for seed, result in enumerate(results(folder, *folders))]
        assert method.seeds == expected
    assert [method.label for method in found.methods] == ["plain (CE)", "KD", "TALD + KD"]


def test_weights_give_the_accuracies_of_the_result(run):
    folder, _ = run
    config = resolve(recipe=str(folder / "config.toml"))
    dataset = datasets.load("digits")
    student = build_classifier(config.student, config, dataset, seed=5)
    load_weights(student.network, folder / "kd-seed1" / "weights.pt")
    (result,) = results(folder, "kd-seed1")
    assert evaluate(student, dataset.test, config) == {"clean": result["clean"], "pgd": result["pgd"]}
    assert result["clean"] == read_metrics(folder / "kd-seed1", "test")[-1]["accuracy"]
    assert 0.2 < result["clean"] <= 1
    assert result["pgd"] < result["clean"]


def test_a_missing_tensorboard_is_said_once(run):
    _, printed = run
    assert printed.count("TensorBoard is not installed") == 1


def test_students_of_a_seed_start_from_the_same_weights():
    config, dataset = resolve(), datasets.load("digits")
    first, again, other = (build_classifier(config.student, config, dataset, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_evaluation_restores_the_mode_and_counts_a_smaller_last_batch():
    config, dataset = resolve(flags={"eval_batch_size": "64"}), datasets.load("digits")
    model = build_classifier(config.student, config, dataset, seed=0).train()
    found = accuracy(model, dataset.test, config)
    assert model.training
    with torch.no_grad():
        predicted = model.eval()(to_pixels(dataset.test.images)).argmax(dim=1)
    assert found == (predicted == dataset.test.labels).sum().item() / 500


def test_evaluation_attacks_as_many_images_as_far_and_as_often_as_asked(run):
    folder, _ = run
    config, dataset = resolve(recipe=str(folder / "config.toml")), datasets.load("digits")
    student = build_classifier(config.student, config, dataset, seed=5).eval()
    load_weights(student.network, folder / "kd-seed1" / "weights.pt")
    found = []
    for eps, steps, samples in [(0.1, 1, 100), (0.1, 5, 100), (0.2, 5, 100), (0.1, 1, 30)]:
        x, labels = to_pixels(dataset.test.images[:samples]), dataset.test.labels[:samples]
        attacked = pgd(student, x, labels, eps=eps, steps=steps, seed=derive_seed(ATTACK_SEED, "pgd", 0))
        with torch.no_grad():
            found.append((student(attacked).argmax(dim=1) == labels).sum().item() / samples)
        changed = config.replaced(eval_eps=eps, eval_steps=steps, pgd_samples=samples)
        assert evaluate(student, dataset.test, changed)["pgd"] == found[-1]
    assert len(set(found)) == 4
    assert min(found) > 0


def test_no_student_is_its_teacher(tmp_path):
    """With the same first weights and order, plain training of the same network would give it again."""
    same = ["--teacher=digits_small", "--student=digits_small", "--student-samples=none", "--teacher-method=ce"]
    short = ["--methods=ce,kd", "--seeds=0", "--teacher-epochs=1", "--epochs=1", "--eval-samples=20", "--eval-steps=1"]
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--no-tensorboard", *same, *short]) == 0
    teacher, student = (torch.load(tmp_path / "run" / name / "weights.pt") for name in ("teacher", "ce-seed0"))
    assert not any(torch.equal(value, student[name]) for name, value in teacher.items() if "num_batches" not in name)


def test_the_weights_of_a_teacher_alone_are_averaged(tmp_path, monkeypatch):
    steps, states = Trainer._train_step, {}

    def watched(trainer, *position):
        steps(trainer, *position)
        own = {name: value.clone() for name, value in trainer.model.network.state_dict().items()}
        states.setdefault(trainer.folder.name, []).append(own)

    monkeypatch.setattr(Trainer, "_train_step", watched)
    arguments = ["--methods=kd", "--seeds=0", "--teacher-epochs=1", "--student-samples=40", "--epochs=2"]
    options = ["--no-tensorboard", "--eval-steps=1", "--eval-samples=20", "--teacher-ema=0.9"]
    assert main(["train", "--run-dir", str(tmp_path / "run"), *arguments, *options]) == 0
    teacher, student = (torch.load(tmp_path / "run" / name / "weights.pt") for name in ("teacher", "kd-seed0"))
    assert all(torch.equal(value, states["kd-seed0"][-1][name]) for name, value in student.items())
    first, *later = states["teacher"]
    assert len(later) >= 5
    for name, average in first.items():
        if not name.endswith("num_batches_tracked"):
            for state in later:
                average = 0.9 * average + 0.1 * state[name]
            torch.testing.assert_close(teacher[name], average)
            assert not torch.allclose(teacher[name], later[-1][name])


def test_a_resumed_run_has_the_same_teacher_where_weights_are_averaged(tmp_path):
    arguments = ["--methods=kd", "--seeds=0", "--teacher-epochs=1", "--student-samples=40", "--epochs=2", "--ema=0.9"]
    folder = tmp_path / "run"
    assert main(["train", "--run-dir", str(folder), "--no-tensorboard", "--eval-steps=1", *arguments]) == 0
    report = (folder / "report.md").read_text()
    assert "Weights: a student's are averaged over its steps, with decay 0.9" in report
    assert "training images, plain (CE), its weights averaged with decay 0.9." in report
    student = folder / "kd-seed0"
    expected = torch.load(student / "weights.pt")
    shutil.rmtree(student)
    assert main(["train", "--run-dir", str(folder), "--resume"]) == 0
    for name, value in torch.load(student / "weights.pt").items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods=ce,igdm,fitnet"], "FitNet: layer must index the 2 maps of the student, got 2"),
        (["--methods=kd", "--student-samples=5000"], "student_samples: 5000, expected 1..1297"),
        (["--methods=kd", "--steps-per-epoch=9"], "steps_per_epoch: 9, expected at most 4: 200 training images"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is(tmp_path, capsys, arguments, message):
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--seeds=0", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*/metrics.jsonl"))


class Picky(torch.nn.Module):
    def __init__(self, *, num_classes, in_channels):
        super().__init__()
        self.fc = torch.nn.Linear(49, num_classes)

    def forward(self, x):
        return self.fc(x.flatten(1))


class TwoHeaded(Picky):
    def forward(self, x):
        return (x, x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Picky, "student: 'odd' cannot take images [1, 8, 8] (RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (TwoHeaded, "student: 'odd' gives a tuple in training, expected logits alone"),
    ],
)
def test_a_network_that_does_not_fit_the_images_is_named(tmp_path, capsys, monkeypatch, network, message):
    monkeypatch.setitem(catalogue.NETWORKS, "odd", network)
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--student=odd"]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_options_of_methods_is_reported(tmp_path):
    recipe = tmp_path / "plain.toml"
    recipe.write_text('methods = ["ce", "kd"]\nseeds = [0]\nepochs = 1\nteacher_epochs = 1\ntensorboard = false\n')
    arguments = ["--student-samples=40", "--eval-steps=1", "--eval-samples=10"]
    assert main(["train", "--recipe", str(recipe), "--run-dir", str(tmp_path / "run"), *arguments]) == 0
    assert (
        "Teacher: one network, trained on all 1297 training images, plain (CE)."
        in (tmp_path / "run" / "report.md").read_text()
    )


def test_what_diverges_costs_no_other_student(tmp_path, capsys):
    run = tmp_path / "run"
    short = ["--teacher-epochs=1", "--epochs=1", "--student-samples=60", "--eval-samples=20", "--eval-steps=1"]
    methods = ["--methods=steep,ce,kd", "--option=steep.method=kd", "--option=steep.alpha=1e38", "--seeds=0,1"]
    whole = ["train", f"--run-dir={run}", "--no-tensorboard", *short, *methods, "--eval-attack=fgsm"]
    assert main(whole) == 2
    captured = capsys.readouterr()
    assert captured.err.count("KD (steep), seed 1: the mean loss up to step") == 1
    assert "report, pictures, metrics and weights" in captured.out
    found = read_results(run)
    assert [(method.name, [*method.values("attack")]) for method in found.methods] == [("ce", [0, 1]), ("kd", [0, 1])]
    report = (run / "report.md").read_text()
    for seed in (0, 1):
        assert f"- KD (steep), seed {seed}: its training diverged, and it is in no number here.\n" in report
    # With one seed alone, of which the other is in the table.
    shutil.copytree(run / "kd-seed1", run / "steep-seed1", dirs_exist_ok=True)
    assert main(["train", f"--run-dir={run}", "--resume"]) == 2
    assert "seed 1" not in capsys.readouterr().err
    report = (run / "report.md").read_text()
    assert "Students: mean ± standard deviation, n of 2 seeds" in report
    (row,) = [line for line in report.splitlines() if line.startswith("| KD (steep) ") and " / " in line]
    assert row.split("|")[2].strip() == ""
    alone = ["--methods=steep", "--seeds=0", *methods[1:3]]
    assert main(["train", f"--run-dir={tmp_path / 'none'}", "--no-tensorboard", *short, *alone]) == 2
    assert "seed 0: the mean loss up to step" in capsys.readouterr().err
    assert not (tmp_path / "none" / "results.json").exists()


def test_the_protocol_says_what_was_done_not_what_was_allowed(tmp_path):
    arguments = [
        "--methods=ce",
        "--seeds=0",
        "--epochs=9",
        "--max-steps=3",
        "--student-samples=40",
        "--eval-samples=9999",
        "--label-smoothing=0.1",
        "--mixup=0.4",
    ]
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--no-tensorboard", "--eval-steps=1", *arguments]) == 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Labels: smoothing 0.1, mixup 0.4." in report
    assert "each student trained for 9 epochs, at most 3 steps, on 40 of 1297 training images" in report
    assert "one random start, 500 test images." in report


def test_a_run_leaves_the_number_of_threads_as_it_was(run):
    assert resolve().threads == 1
    assert "- CPU threads: 1\n" in (run[0] / "report.md").read_text()
    assert torch.get_num_threads() == THREADS_BEFORE


def test_one_value_has_no_spread():
    assert mean_and_spread([1234.5], 1) == "1,234.5"
    assert mean_and_spread([1.0, 3.0], 2) == "2.00 ± 1.41"


def test_a_table_is_padded_markdown():
    assert render_table([["a", "bcd"], ["efg", "h"]]).splitlines() == [
        "| a   | bcd |",
        "|-----|-----|",
        "| efg | h   |",
    ]


def test_a_bar_in_a_cell_is_no_border():
    assert render_table([["class"], ["a|b"]]).splitlines() == ["| class |", "|-------|", "| a\\|b  |"]

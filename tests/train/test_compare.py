"""fastadv compare: several runs in one table, from their results.json alone."""

import json

import pytest

from fastadv.train.cli import main

CONFIG = {"data": "digits", "teacher": "big", "student": "small", "lr": 0.1, "methods": ["kd"], "seeds": [0]}


def write_run(folder, methods, teacher=None, origin=(), **config):
    """A finished run: methods by name, each with (clean, pgd) by seed."""
    folder.mkdir(parents=True)
    content = {
        "config": {**CONFIG, **config},
        "origin": dict(origin),
        "train_images": 100,
        "test_images": 50,
        "teacher": teacher,
        "methods": [
            {
                "name": name,
                "label": name.upper(),
                "method": name,
                "seeds": [{"seed": seed, "clean": clean, "pgd": pgd} for seed, (clean, pgd) in results.items()],
            }
            for name, results in methods.items()
        ],
    }
    (folder / "results.json").write_text(json.dumps(content))
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    teacher = {"clean": 0.95, "pgd": 0.5}
    first = {"ce": {0: (0.5, 0.1), 1: (0.6, 0.2)}, "kd": {0: (0.6, 0.1), 1: (0.7, 0.2)}}
    second = {"tald": {1: (0.71, 0.25), 2: (0.9, 0.3)}, "kd": {7: (0.8, 0.3)}}
    return (
        write_run(tmp_path / "first", first, teacher, options={"kd": {"alpha": 0.5}}),
        write_run(tmp_path / "second", second, lr=0.2, options={"kd": {"alpha": 0.9}}),
    )


def compared(capsys, *arguments):
    assert main(["compare", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def cells(text, label):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {label} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_means_spreads_and_differences_to_the_first_runs_kd(capsys, tmp_path, runs):
    text = compared(capsys, *runs, "--out", tmp_path / "out")
    assert "clean accuracy minus first: KD, points" in text
    assert cells(text, "first: teacher (big)") == ["1", "95.00", "50.00", "", "", ""]
    assert cells(text, "first: KD") == ["2", "65.00 ± 7.07", "15.00 ± 7.07", "", "", ""]
    assert cells(text, "first: CE")[3:] == ["-10.00 [-10.00, -10.00]", "+0.00 [+0.00, +0.00]", "2"]
    assert cells(text, "second: TALD") == ["2", "80.50 ± 13.44", "27.50 ± 3.54", "+1.00", "+5.00", "1"]
    assert cells(text, "second: KD")[3:] == ["", "", ""], "no seed is common"
    page = (tmp_path / "out" / "compare.md").read_text()
    assert all(line in page for line in text.splitlines() if line.startswith("|"))
    assert f"- first: {runs[0]}" in page
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_what_else_differs_is_said(capsys, tmp_path, runs):
    text = compared(capsys, *runs, "--out", tmp_path / "out")
    assert "- lr: 0.1 (first), 0.2 (second)\n- options.kd.alpha: 0.5 (first), 0.9 (second)\n" in text
    assert "- teacher" not in text
    assert "The runs differ" not in compared(capsys, runs[0], "--out", tmp_path / "alone")


def test_options_count_in_the_runs_that_train_with_them(capsys, tmp_path):
    tables = ({"kd": {"alpha": 0.5}, "rslad": {"steps": 1}}, {"tald": {"eps": 0.1}, "rslad": {"steps": 2}})
    folders = [
        write_run(tmp_path / name, {name: {0: (0.5, 0.5)}}, options=options)
        for name, options in zip(("kd", "tald"), tables, strict=True)
    ]
    text = compared(capsys, *folders, "--out", tmp_path / "out")
    assert [line for line in text.splitlines() if line.startswith("- ")] == ["- options.rslad.steps: 1 (kd), 2 (tald)"]


def test_an_attack_that_all_students_met_is_compared_too(capsys, tmp_path, runs):
    def attacked(folder, methods, name="autoattack"):
        path = write_run(folder, {method: {0: (0.5, 0.4)} for method in methods}, {"clean": 0.9, "pgd": 0.6})
        content = json.loads((folder / "results.json").read_text())
        for method in content["methods"]:
            method["seeds"][0]["attack"] = {"name": name, "images": 50, "accuracy": methods[method["name"]]}
        (folder / "results.json").write_text(json.dumps(content))
        return path

    one = attacked(tmp_path / "one", {"kd": 0.2, "igdm": 0.3})
    text = compared(capsys, one, attacked(tmp_path / "two", {"saad": 0.35}), "--out", tmp_path / "out")
    assert "accuracy under autoattack minus one: KD, points" in text
    assert cells(text, "one: teacher (big)") == ["1", "90.00", "60.00", "not attacked", "", "", "", ""]
    assert cells(text, "two: SAAD") == ["1", "50.00", "40.00", "35.00", "+0.00", "+0.00", "+15.00", "1"]
    for other in (runs[0], attacked(tmp_path / "three", {"tald": 0.3}, name="fgsm")):
        assert "autoattack" not in compared(capsys, one, other, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "pairs"),
    [
        ({"data": "cifar10"}, ""),
        ({"student": "smaller"}, ""),
        ({"student_samples": 50}, ""),
        ({"grayscale": True}, ""),
        ({"grayscale": False, "image_size": "none"}, "1"),
        ({"batch_size": 7, "data_dir": "elsewhere"}, "1"),
    ],
)
def test_seeds_that_mean_other_weights_or_images_are_not_paired(capsys, tmp_path, runs, config, pairs):
    other = write_run(tmp_path / "other", {"kd": {0: (0.5, 0.5)}}, **config)
    text = compared(capsys, runs[0], other, "--out", tmp_path / "out")
    assert cells(text, "other: KD")[-1] == pairs
    assert cells(text, "first: CE")[-1] == "2"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"eval_eps": 0.02}, ["-10.00", "", "1"]),
        ({"eval_steps": 20}, ["-10.00", "", "1"]),
        ({"pgd_samples": 10}, ["-10.00", "", "1"]),
        ({"eval_samples": 10, "pgd_samples": "none"}, ["", "", ""]),
        ({"pgd_samples": 30, "eval_samples": 10}, ["", "", ""]),
        ({"pgd_samples": 50}, ["-10.00", "", "1"]),
        ({"eval_batch_size": 7}, ["-10.00", "+40.00", "1"]),
    ],
    ids=str,
)
def test_accuracies_that_were_measured_otherwise_have_no_difference(capsys, tmp_path, config, expected):
    evaluation = {"eval_eps": 0.1, "eval_steps": 10, "eval_samples": "none", "pgd_samples": "none"}
    one = write_run(tmp_path / "one", {"kd": {0: (0.6, 0.1)}}, **evaluation)
    two = write_run(tmp_path / "two", {"kd": {0: (0.5, 0.5)}}, **{**evaluation, **config})
    assert cells(compared(capsys, one, two, "--out", tmp_path / "out"), "two: KD")[3:] == expected


@pytest.mark.parametrize(
    ("line", "pairs"),
    [("Training images SHA-256", ""), ("Test images SHA-256", ""), ("Teacher checkpoint SHA-256", "1")],
)
def test_images_and_checkpoints_that_differ_behind_one_path_are_said(capsys, tmp_path, line, pairs):
    students = {"kd": {0: (0.5, 0.1)}}
    runs = [write_run(tmp_path / name, students, origin={line: f"hash-{name}"}) for name in ("first", "second")]
    text = compared(capsys, *runs, "--out", tmp_path / "out")
    assert f"- {line}: hash-first (first), hash-second (second)" in text
    assert cells(text, "second: KD")[-1] == pairs
    # Earlier versions did not keep it.
    older = write_run(tmp_path / "older", students)
    text = compared(capsys, runs[0], older, "--out", tmp_path / "again")
    assert line not in text
    assert cells(text, "older: KD")[-1] == "1"


@pytest.mark.parametrize("baseline", ["tald", "second/tald"])
def test_the_baseline_can_be_chosen(capsys, tmp_path, runs, baseline):
    text = compared(capsys, *runs, "--out", tmp_path / "out", "--baseline", baseline)
    assert cells(text, "first: KD")[3:] == ["-1.00", "-5.00", "1"]
    assert cells(text, "second: TALD")[3:] == ["", "", ""]


def test_runs_of_one_name_are_told_apart_by_their_paths(capsys, tmp_path, runs):
    twin = write_run(tmp_path / "elsewhere" / "first", {"kd": {0: (0.5, 0.5)}})
    text = compared(capsys, runs[0], twin, "--out", tmp_path / "out")
    assert cells(text, f"{twin}: KD")[3:] == ["-10.00", "+40.00", "1"]


def test_one_run_keeps_its_labels_and_goes_under_runs(capsys, tmp_path, runs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cells(compared(capsys, runs[0]), "CE")[0] == "2"
    assert len(list((tmp_path / "runs").glob("compare-*/compare.md"))) == 1


def test_what_cannot_be_compared_is_named(capsys, tmp_path, runs):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text('{"config": 3}')
    for arguments, message in (
        ([tmp_path], "no results.json, expected the folder of a finished run"),
        ([tmp_path / "broken"], "results.json: not what a run writes"),
        ([runs[0], runs[0]], "expected each of them once"),
        ([*runs, "--baseline", "crd"], "baseline: 'crd', expected one of first/ce, first/kd, second/tald, second/kd"),
    ):
        assert main(["compare", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err

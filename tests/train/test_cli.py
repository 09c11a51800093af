import re
import sys
from pathlib import Path

import pytest

from fastadv.train.cli import main
from fastadv.train.config.methods import METHODS, options_of
from fastadv.train.config.train_config import Config, packaged_recipes, resolve


def fails(capsys, *arguments: str) -> str:
    """The error message of a command that must fail with status 2 and without a traceback."""
    assert main(["train", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("fastadv: error: ")
    assert "Traceback" not in message
    return message


def test_every_field_is_a_flag(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    flags = {"--" + name.replace("_", "-") for name in Config.model_fields} - {"--options"} | {"--option"}
    assert all(f"{flag} " in text or f"{flag}, " in text for flag in flags)
    # Argparse breaks lines at hyphens too.
    joined = "".join(text.split())
    assert all(recipe in joined for recipe in packaged_recipes())
    assert "(default:0.0313725)" in joined


def test_errors_of_the_users_have_no_traceback(capsys, tmp_path):
    assert "batch_size: 'many'" in fails(capsys, "--batch-size", "many")
    (tmp_path / "a file").touch()
    assert "Not a directory" in fails(capsys, "--run-dir", str(tmp_path / "a file" / "run"))
    assert "recipe: 'unheard'" in fails(capsys, "--recipe", "unheard")
    run = ["--run-dir", str(tmp_path / "run"), "--data", "cifar100", "--no-tensorboard"]
    assert "holds neither" in fails(capsys, *run, "--data-dir", str(tmp_path))
    nowhere = tmp_path / "nowhere"
    assert f"data_dir {nowhere}: no such folder" in fails(capsys, *run, "--data-dir", str(nowhere))
    assert not (tmp_path / "run").exists()


def stored(folder: Path, **flags: object) -> str:
    """The folder of a run whose configuration is stored, and of which a student is finished."""
    config = resolve(flags={"data": "cifar100", "data_dir": str(folder), **flags})
    run = folder / "runs" / "cifar100-stored"
    (run / "ce-seed0").mkdir(parents=True)
    (run / "ce-seed0" / "result.json").write_text("{}")
    (run / "config.toml").write_text(config.to_toml())
    (run / "origin.json").write_text("{}")
    return str(run)


def test_a_resumed_run_keeps_its_configuration(capsys, tmp_path):
    run = stored(tmp_path, lr="0.5")
    resume = ["--resume", "--run-dir", run]
    assert "lr 0.5 -> 0.25" in fails(capsys, *resume, "--lr", "1/4")
    assert "holds neither" in fails(capsys, *resume, "--lr", "1/2")
    assert "holds neither" in fails(capsys, *resume)
    given = ["--data", "cifar100", "--data-dir", str(tmp_path)]
    assert "already holds a run" in fails(capsys, "--run-dir", run, "--methods=ce", "--seeds=0")
    assert "holds neither" in fails(capsys, *resume, *given, "--lr", "0.5")


def test_a_constant_rate_is_told_at_the_start_and_in_the_report(capsys, tmp_path):
    note = "milestones: none of [7] lies within 1 epochs, the rate is constant"
    how = ("--schedule=step", "--milestones=7", "--epochs=1", "--methods=ce", "--seeds=0", "--student-samples=50")
    assert main(["train", *how, "--no-tensorboard", f"--run-dir={tmp_path / 'run'}"]) == 0
    assert f"\nnote: {note}\n" in capsys.readouterr().out
    assert f"\n- {note}.\n" in (tmp_path / "run" / "report.md").read_text()


def test_a_flag_without_effect_is_told_at_the_start(capsys, tmp_path):
    how = ("--milestones=1", "--epochs=2", "--methods=ce", "--seeds=0", "--student-samples=50", "--eval-samples=50")
    assert main(["train", *how, "--no-tensorboard", f"--run-dir={tmp_path / 'run'}"]) == 0
    assert "\nnote: milestones has no effect: schedule is cosine\n" in capsys.readouterr().out


def test_resume_without_a_run_starts_one_and_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "--data", "cifar100", "--data-dir", str(tmp_path)]) == 2
    assert "nothing to resume" in capsys.readouterr().out
    run = stored(tmp_path)
    assert "holds neither" in fails(capsys, "--resume")
    assert "nothing to resume" not in capsys.readouterr().out
    assert (Path(run) / "config.toml").exists()


def test_doctor_says_what_serves_each_op(capsys):
    assert main(["doctor"]) == 0
    assert "svgd_step" in capsys.readouterr().out


def test_methods_lists_every_method_with_its_options(capsys):
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    for name, known in METHODS.items():
        assert f"\n{name} " in f"\n{text}"
        assert all(f"{option}=" in text for option in options_of(known.kind))
    assert "Plain training: CE(student(x), y)" in text


def test_methods_explains_one(capsys):
    assert main(["methods", "tald"]) == 0
    text = capsys.readouterr().out
    assert "where x_i are n particles of each attacked image" in text
    assert re.search(r"--option tald\.base= +METHOD +none\n", text)
    assert re.search(r"--option tald\.eps= +FLOAT +0\.0313725\n", text)
    assert main(["methods", "ce"]) == 0
    assert capsys.readouterr().out.endswith("No options.\n")
    assert main(["methods", "unheard"]) == 2
    assert "'unheard', expected one of ce, kd, " in capsys.readouterr().err


def test_the_columns_of_a_table_stay_below_their_rules(capsys):
    assert main(["methods", "amkd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second, third = (index for index, line in enumerate(lines) if line.startswith("===="))
    starts = [match.start() for match in re.finditer("=+", lines[first])]
    for line in (*lines[first + 1 : second], *lines[second + 1 : third]):
        assert [match.start() for match in re.finditer(r"(?<!\S)\S+( \S+)*", line)] == starts


def test_a_missing_extra_is_named_before_anything_is_trained(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'fastadv[train]'" in fails(capsys, "--run-dir", str(tmp_path / "run"))
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attack", "--epsilon", "8/255"], "--epsilon 8/255, did you mean --eps?"),
        (["attack", "--alpha=2/255"], "--alpha=2/255, did you mean --step-size?"),
        (["attack", "--nb-iter=3"], "--nb-iter=3, did you mean --steps?"),
    ],
)
def test_other_libraries_names_of_a_flag_are_answered_with_ours(capsys, arguments, message):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_option_is_answered_with_the_nearest(capsys):
    message = "options.rslad.alpha: no such option, did you mean step_size?"
    assert message in fails(capsys, "--methods=rslad", "--option=rslad.alpha=3")

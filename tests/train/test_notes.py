"""What a method says of its networks reaches the report and the results."""

import pytest

from fastadv.train.cli import main
from fastadv.train.report.results import read_results
from fastadv.train.report.training_report import _notes

ARGUMENTS = [
    *("--methods=kd,igdm", "--seeds=0,1", "--teacher-epochs=1", "--max-steps=1", "--batch-size=20", "--eval-steps=1"),
    *("--eval-samples=20", "--no-tensorboard", "--student-samples=none"),
    *("--option=igdm.base=adaad", "--option=adaad.eps=0.5"),
]


def test_a_teacher_that_is_not_robust_is_named_with_the_figure(tmp_path):
    with pytest.warns(UserWarning, match="IGDM: the teacher is not locally linear") as said:
        assert main(["train", "--run-dir", str(tmp_path / "run"), *ARGUMENTS]) == 0
    (warning, *_) = [str(each.message) for each in said if "IGDM" in str(each.message)]
    note = warning.removeprefix("IGDM: ")
    kd, igdm = read_results(tmp_path / "run").methods
    assert kd.notes() == {}
    # All training images are the same for both seeds, and so is the figure.
    assert igdm.notes() == {note: [0, 1]}
    assert f"## Notes\n\n- IGDM + AdaAD, seeds 0, 1: {note}.\n" in (tmp_path / "run" / "report.md").read_text()


def test_without_notes_there_is_no_section(small_run):
    run = read_results(small_run.parent)
    assert run.methods[0].seeds[0]["notes"] == []
    assert "## Notes" not in (small_run.parent / "report.md").read_text()
    # Results that were written before there were notes.
    del run.methods[0].seeds[0]["notes"]
    assert _notes([], run) == []

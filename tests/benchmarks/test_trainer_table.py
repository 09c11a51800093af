"""What README.md says of the trainer's results is what the committed results say."""

from __future__ import annotations

from benchmarks import trainer_table
from fastadv.train.results import read_results


def test_only_what_stands_between_the_markers_is_replaced():
    text = f"before\n{trainer_table.BEGIN}old\n{trainer_table.END}after\n"
    assert trainer_table.filled(text, "\\1 new") == (
        f"before\n{trainer_table.BEGIN}\n\\1 new\n\n{trainer_table.END}after\n"
    )


def test_the_committed_page_is_up_to_date():
    text = trainer_table.PAGE.read_text()
    assert trainer_table.BEGIN in text
    assert trainer_table.filled(text, trainer_table.tables()) == text


def test_a_section_shows_the_numbers_and_their_report():
    folder = trainer_table.ROOT / "benchmarks" / "results" / "digits-demo"
    text = trainer_table.section(folder)
    for method in read_results(folder).methods:
        mean = 100 * sum(method.values("clean").values()) / len(method.seeds)
        assert f"| {mean:.2f} ± " in text
    assert "](benchmarks/results/digits-demo/report.md)" in text
    assert (folder / "report.md").exists()

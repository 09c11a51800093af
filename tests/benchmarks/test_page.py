"""The figures of the READMEs and the pictures are those of the committed results."""

from __future__ import annotations

import pytest

from benchmarks.cases import registry, selected
from benchmarks.pages import page, plots, reasons, tables
from benchmarks.pages.families import FAMILIES
from benchmarks.pages.markers import filled
from benchmarks.suite import results


def test_the_committed_pages_are_up_to_date():
    for readme, sections in page.pages().items():
        written = readme.read_text()
        for name, text in sections.items():
            assert text in written
            assert filled(written, name, text) == written


@pytest.mark.parametrize("path", results.files(), ids=lambda path: path.stem)
def test_every_row_that_needs_a_reason_has_one(path):
    measured = results.read(path)
    assert tables.UNEXPLAINED not in tables.machine_page(path.stem, measured, {})


def test_every_reason_is_one_of_a_case():
    families = {reasons.family(entry.name) for entry in registry()}
    named = {name for reason in (*reasons.FLOOR, *reasons.COMPILED) for name in reason.families}
    assert [name for name in named if not any(family.startswith(name) for family in families)] == []


def test_every_case_is_of_one_family():
    for entry in registry():
        assert sum(family.has(entry.op) for family in FAMILIES) == 1, entry.name


def test_the_front_page_shows_cases_of_the_default_run():
    assert set(page.FRONT_CASES) <= {entry.name for entry in selected()}


@pytest.mark.parametrize("path", results.files(), ids=lambda path: path.stem)
def test_the_committed_pictures_are_of_the_committed_results(path):
    image = pytest.importorskip("PIL.Image", reason="pillow, which comes with matplotlib, is not installed")
    shown = [link.partition("(results/")[2].rstrip(")") for link in plots.links(path).values()]
    assert shown
    for name in shown:
        assert image.open(results.FOLDER / name).text["Description"] == plots.digest(path)


def test_every_picture_is_drawn_from_what_it_needs(tmp_path):
    pytest.importorskip("matplotlib")
    measured = results.read(page.FRONT_PAGE)
    sizes = enumerate(measured["rows"][:4], 1)
    rows = [row | {"sweeps": [{"family": "some", "axis": "batch", "size": size}]} for size, row in sizes]
    copies = [{"bytes": 1000, "seconds": 1e-6, "cold_seconds": 1e-6}]
    floor = {"copies": copies, "operations_per_second": 1e11, "operations_of": "a product"}
    path = tmp_path / "machine.json"
    results.write(path, measured | {"rows": rows, "floor": floor})
    drawn = plots.draw(path)
    assert [file.name for file in drawn] == [f"machine-{name}.png" for name in ("steps", "roofline", "scaling")]
    assert list(plots.links(path)) == ["steps", "roofline", "scaling"]

"""The tables of the READMEs are those of the committed results."""

from __future__ import annotations

from benchmarks import page


def test_only_what_stands_between_the_markers_is_replaced():
    text = "before\n<!-- tables -->\nold\n\\1\n<!-- end of tables -->\nafter\n"
    expected = "before\n<!-- tables -->\n\n\\g<1> new\n\n<!-- end of tables -->\nafter\n"
    assert page.filled(text, "\\g<1> new") == expected


def test_the_committed_pages_are_up_to_date():
    tables = "\n\n".join(page.machine_tables(path) for path in sorted((page.HERE / "results").glob("*.json")))
    for readme, table in ((page.HERE, tables), (page.HERE.parent, page.short_table(page.FRONT_PAGE))):
        text = (readme / "README.md").read_text()
        assert table in text
        assert page.filled(text, table) == text

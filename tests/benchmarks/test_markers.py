"""What stands between the markers of a page."""

from __future__ import annotations

import pytest

from benchmarks.pages.markers import filled


def test_only_what_stands_between_the_markers_of_that_name_is_replaced():
    page = "before\n<!-- {0} -->\n{1}<!-- end of {0} -->\nafter\n"
    other = page.format("other", "kept\n")
    assert filled(page.format("this", "old\n\\1\n") + other, "this", "\\g<1> new") == (
        page.format("this", "\n\\g<1> new\n\n") + other
    )


@pytest.mark.parametrize("times", [0, 2])
def test_a_page_without_or_with_several_such_markers_is_refused(times):
    with pytest.raises(ValueError, match=f"expected one pair of markers of 'this', got {times}"):
        filled("<!-- this -->\n<!-- end of this -->\n" * times, "this", "text")

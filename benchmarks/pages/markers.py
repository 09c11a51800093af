"""Text of a page that is made from results: it stands between two comments that name it."""

from __future__ import annotations

import re


def filled(text: str, name: str, between: str) -> str:
    """``text`` with what stands between the markers of ``name`` replaced. Raises ValueError where it has none."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    replaced, count = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}\n{between}\n\n{end}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"expected one pair of markers of {name!r}, got {count}")
    return replaced

"""The table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDTH = 60
MAIN = ("fused", "eager", "compiled")


def head() -> str:
    columns = "".join(f"{name:>11}" for name in MAIN)
    return f"{'':{WIDTH}}{columns}   {'eager / fused':24}{'compiled / fused':24}{'floor':>6}{'cold':>6}   difference"


def row(measured: Mapping[str, Any]) -> str:
    """A case; below it the other opponents, and the reasons why one is missing."""
    seconds, ratios = measured["seconds"], measured["ratio_to_fused"]
    shares = "".join(_share(measured.get(name)) for name in ("share_of_floor", "cold_share_of_floor"))
    text = (
        f"{measured['case']:{WIDTH}}"
        + "".join(_time(seconds.get(name)) for name in MAIN)
        + "".join(f"   {_ratio(ratios.get(name)):21}" for name in MAIN[1:])
        + f"{shares}   {measured['differences']['fused']:.0e}"
    )
    if "bytes_formula" in measured:
        text += f"\n  {measured['bytes']:,} bytes: {measured['bytes_formula']}"
        text += f"\n  {measured['operations']:,} operations: {measured['operations_formula']}"
    if "network_share" in measured:
        text += f"\n  {measured['network_share']:.0%} of the time in PyTorch's own operators, nearly all the network's"
    for name in seconds:
        if name not in MAIN:
            text += f"\n  {name:{WIDTH - 2}}{_time(seconds[name])}   {_ratio(ratios[name])}"
    if measured["note"]:
        text += f"\n  {measured['note']}"
    for name, reason in measured["missing"].items():
        text += f"\n  {name:{WIDTH - 2}}{'-':>11}   {reason}"
    return text


def overhead(calls: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["calls on the smallest problem"]
    for name, call in calls.items():
        beside = f"   {_ratio(call['ratio'])} x {call['beside']}" if call["ratio"] else ""
        lines.append(f"{name:40}{_time(call['seconds'])}{beside}")
    return "\n".join(lines)


def copies(floor: Mapping[str, Any]) -> str:
    lines = [f"{'copy, bytes read and written':40}{'warm':>11}{'cold':>11}{'GB/s':>8}"]
    for copy in floor["copies"]:
        times = "".join(_time({"median": copy[name]}) for name in ("seconds", "cold_seconds"))
        lines.append(f"{copy['bytes']:<40,}{times}{copy['bytes'] / copy['seconds'] / 1e9:8.1f}")
    return "\n".join(lines)


def _time(seconds: Mapping[str, float] | None) -> str:
    return f"{seconds['median'] * 1e6:9,.1f}us" if seconds else f"{'-':>11}"


def _ratio(spread: Mapping[str, float] | None) -> str:
    return f"{spread['median']:6.2f} ({spread['low']:.2f} - {spread['high']:.2f})" if spread else f"{'-':>6}"


def _share(share: float | None) -> str:
    return f"{'-':>6}" if share is None else f"{share:6.2f}"

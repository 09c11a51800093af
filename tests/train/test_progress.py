"""The lines of a long loop, by a clock that the test moves."""

from types import SimpleNamespace

import pytest

from fastadv.train.runtime import progress
from fastadv.train.runtime.progress import Progress


@pytest.fixture
def lines(monkeypatch, capsys):
    """What is printed of steps that take the given seconds, of a loop of ten steps with so many behind it."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False)

    def printed(*seconds: float, done: int = 0, note: str = "", shown: bool = True) -> list[str]:
        with Progress("KD", done=done, total=10, images_per_step=64, shown=shown) as loop:
            loop.note(note)
            for each in seconds:
                clock.now += each
                loop.step()
        return capsys.readouterr().out.splitlines()

    return printed


def test_the_rate_is_that_of_the_steps_after_the_first(lines):
    assert lines(60.0, 4.0, 4.0, note="loss 2.0000") == [
        "KD: step 1/10, loss 2.0000",
        "KD: step 3/10, 16 images/s, 28 s left, loss 2.0000",
    ]


def test_a_loop_that_goes_on_counts_from_where_it_began(lines):
    assert lines(1.0, 8.0, done=6) == ["KD: step 8/10, 8 images/s, 16 s left"]


def test_lines_are_seconds_apart(lines):
    assert [line.split(",")[0] for line in lines(*[2.0] * 9)] == ["KD: step 3/10", "KD: step 6/10", "KD: step 9/10"]


def test_one_of_several_processes_tells(lines):
    assert lines(60.0, shown=False) == []

"""Ctrl-C and SIGTERM: a training stops after its step and AutoAttack after its pass, stored; all else stops at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__()
        # The exit status by convention: 130 for SIGINT, 143 for SIGTERM.
        self.status = 128 + number


class _State:
    deferring = False
    asked: int | None = None


@contextlib.contextmanager
def stopping_by_signal() -> Iterator[None]:
    """Raise Stopped where SIGINT or SIGTERM comes, unless it is deferred; a second one is not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.asked = None
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal waits until :func:`stop_if_asked`."""
    _State.deferring = True
    try:
        yield
    finally:
        _State.deferring = False


def asked_to_stop() -> bool:
    """Return whether a signal waits."""
    return _State.asked is not None


def stop_if_asked() -> None:
    """Raise Stopped where a signal waits."""
    if _State.asked is not None:
        raise Stopped(_State.asked)


def _stop(number: int, frame: FrameType | None) -> None:
    if _State.deferring and _State.asked is None:
        _State.asked = number
        return
    raise Stopped(number)

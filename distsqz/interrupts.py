"""Ctrl-C and SIGTERM where an exception would come at the wrong moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager


@contextlib.contextmanager
def noted_interrupts() -> Iterator[threading.Event]:
    """Notes Ctrl-C and SIGTERM instead of raising them in the midst of a write; a second one is raised."""
    interrupted = threading.Event()

    def note(_signum: int, _frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    with _handled_by(note):
        yield interrupted


def ignored_interrupts() -> AbstractContextManager[None]:
    """Ignores Ctrl-C and SIGTERM: for what soon ends by itself and must not be left half done."""
    return _handled_by(signal.SIG_IGN)


@contextlib.contextmanager
def _handled_by(new: Callable[[int, object], None] | signal.Handlers) -> Iterator[None]:
    before = {number: signal.signal(number, new) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Ctrl-C and SIGTERM where an exception would come at the wrong moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def noted_interrupts() -> Iterator[threading.Event]:
    """Notes Ctrl-C and SIGTERM instead of raising them in the midst of a write; a second one is raised."""
    interrupted = threading.Event()

    def note(_signum: int, _frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Ignores Ctrl-C and SIGTERM: for what soon ends by itself and must not be left half done."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

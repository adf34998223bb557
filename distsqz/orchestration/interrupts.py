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

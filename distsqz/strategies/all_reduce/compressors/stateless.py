"""Hooks of torch that keep nothing from one step to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class StatelessHook:
    """A hook of torch that averages over the default group."""

    def __init__(self, hook: Callable[[Any, Any], Any]) -> None:
        self._hook = hook

    def __call__(self, bucket: Any) -> Any:
        """Starts to synchronise a bucket; a future of its average over the ranks."""
        return self._hook(None, bucket)

    def state(self) -> None:
        """Nothing."""

    def load(self, state: dict[str, Any]) -> None:  # noqa: ARG002
        """Raises AssertionError: there is nothing to go on from."""
        raise AssertionError("a hook without state was saved with one")

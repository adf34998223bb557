"""The interface of an instrument, which is read before and after a step and fills columns of `steps`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self


@dataclass(frozen=True, kw_only=True)
class Place:
    """What instruments need to know of the place where a worker runs."""

    interface: str | None
    """Network interface between the ranks; None if it is unknown."""
    native_thread_id: int
    """The kernel's id of the training thread."""


class Instrument(Protocol):
    """An instrument is read before the clock of a step starts and after it has stopped, never in between.

    `registry.NAMES` lists all.
    """

    columns: ClassVar[type[Any]]
    """A dataclass whose fields are declared with `columns.column`: the columns of `steps` that it fills. They
    are null where the instrument cannot be opened or read."""
    counts_traffic: ClassVar[bool]
    """Whether it counts what crosses the network. Its figures are then unknown for a step at whose end
    written bytes had not been acknowledged."""

    @classmethod
    def open(cls, place: Place) -> Self | None:
        """Opens the instrument for this process; None if there is nothing to read."""

    def read(self) -> Any:
        """Takes a reading before or after a step; None if it cannot be read."""

    def between(self, before: Any, after: Any) -> Any:
        """Values of the columns of a step, an instance of `columns`, from the readings before and after
        it.
        """

    def close(self) -> None:
        """Releases what `open` took."""

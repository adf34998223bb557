"""What an instrument is: something that is read at the borders of a step and fills columns of `steps`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker runs, as far as instruments need to know."""

    interface: str | None
    """Network interface that ranks reach each other through; None where it is unknown."""
    native_thread_id: int
    """The kernel's number of the thread that trains."""


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
        """The instrument of this process; None where there is nothing to read."""

    def read(self) -> Any:
        """A reading, taken at a border of a step; None where it cannot be read."""

    def between(self, before: Any, after: Any) -> Any:
        """The columns of a step, an instance of `columns`, from the readings at its two borders."""

    def close(self) -> None:
        """Gives back what `open` took."""

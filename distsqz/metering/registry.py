"""The instruments that a worker is measured with beside its clock, its transfers and its TCP connections.

A new instrument is a file of its own and a line in `NAMES`; its columns reach the run directory and the
report from there.
"""

from __future__ import annotations

import pkgutil

from distsqz.metering.instrument import Instrument, Place

NAMES = (
    "distsqz.metering.host:InterfaceMeter",
    "distsqz.metering.wire:WireMeter",
    "distsqz.metering.host:SchedulerMeter",
    "distsqz.metering.memory:MemoryMeter",
)
"""`package.module:class` of every instrument, in the order of their columns."""

INSTRUMENTS: tuple[type[Instrument], ...] = tuple(pkgutil.resolve_name(name) for name in NAMES)


def open_instruments(place: Place) -> tuple[Instrument, ...]:
    """Opens all instruments that can be opened in this process."""
    opened = (instrument.open(place) for instrument in INSTRUMENTS)
    return tuple(each for each in opened if each is not None)

"""The instruments that a worker is measured with beside its clock, its transfers and its TCP connections.

A new instrument is a file of its own and a line in `INSTRUMENTS`; its columns reach the run directory and the
report from there.
"""

from __future__ import annotations

from distsqz.metering.host import InterfaceMeter, SchedulerMeter
from distsqz.metering.instrument import Instrument, Place
from distsqz.metering.wire import WireMeter

INSTRUMENTS: tuple[type[Instrument], ...] = (
    InterfaceMeter,
    WireMeter,
    SchedulerMeter,
)


def open_instruments(place: Place) -> tuple[Instrument, ...]:
    """The instruments that can be opened in this process."""
    opened = (instrument.open(place) for instrument in INSTRUMENTS)
    return tuple(each for each in opened if each is not None)

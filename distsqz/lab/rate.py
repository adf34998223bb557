"""Link rates as text: `1gbit`, `2.5gbit`, `100mbit`."""

from __future__ import annotations

import re

from distsqz.errors import InvalidValue

UNITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
LEAST, MOST = 10**6, 30 * 10**9
"""Range of rates, in bits per second. Below, a frame takes over 12 ms; above, the kernel's 32 bits
overflow."""


def parse_rate(rate: str, most: int = MOST) -> int:
    """Bits per second of a rate such as `1gbit`.

    Args:
        rate: a number and a unit.
        most: the highest rate that is allowed; by default what a link can be shaped to.

    Raises:
        InvalidValue: it is not a rate, or out of range.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", rate.strip().lower())
    bits_per_s = float(match[1]) * UNITS[match[2]] if match else 0
    if not LEAST <= bits_per_s <= most:
        raise InvalidValue(
            "rate",
            rate,
            "give a number and kbit, mbit or gbit, such as 1gbit; "
            f"{format_rate(LEAST)} at least, {format_rate(most)} at most",
        )
    return round(bits_per_s)


def format_rate(bits_per_s: int) -> str:
    """A rate in its shortest form, such as `1gbit`."""
    unit, size = next((unit, size) for unit, size in reversed(UNITS.items()) if bits_per_s >= size)
    return f"{bits_per_s / size:.12g}{unit}"


def rate_words(bits_per_s: int) -> str:
    """A rate for people, such as `1 Gbit/s`."""
    unit, size = next((unit, size) for unit, size in reversed(UNITS.items()) if bits_per_s >= size)
    return f"{bits_per_s / size:.12g} {unit.replace('bit', 'bit/s').replace('g', 'G').replace('m', 'M')}"

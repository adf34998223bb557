"""Numbers as the page shows them: looked up in the report's JSON by key, with three digits and a unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from distsqz.report.formats import HEADINGS

UNKNOWN = "–"  # noqa: RUF001  # an en dash stands for "no figure"

NO_BREAK_SPACE = "\u00a0"

_PREFIXES = {1.0: "", 1e3: "k", 1e6: "M", 1e9: "G"}
_PREFIXES_OF_SECONDS = {1e-6: "µ", 1e-3: "m", 1.0: ""}

_UNITS: list[tuple[str, Callable[[float], str]]] = [
    ("_bytes_per_s", lambda value: scaled(8 * value, "bit/s")),
    ("_bits_per_s", lambda value: scaled(value, "bit/s")),
    ("_per_s", lambda value: f"{three_digits(value)}/s"),
    ("_bytes", lambda value: scaled(value, "B")),
    ("_s", lambda value: scaled(value, "s")),
    ("_us", lambda value: scaled(value / 1e6, "s")),
    ("_share", lambda value: f"{three_digits(100 * value)}%"),
    ("_vs_goodput", lambda value: f"{three_digits(100 * value)}%"),
    ("_vs_predicted", lambda value: f"{100 * value:+.3f}%"),
]
"""The unit that ends a name, and how a number of it is shown."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of a report, by the key of each in its JSON form."""

    document: dict[str, Any]
    """The report in its JSON form."""

    def value(self, key: str) -> Any:
        """The value at a key such as `cells.0.step_s` or `comparisons.0.step_ratio_ci95.1`.

        A name that its object does not have is None, as an unknown figure is.
        """
        place: Any = self.document
        for name in key.split("."):
            if place is None:
                return None
            place = place[int(name)] if isinstance(place, list) else place.get(name)
        return place

    def html(self, key: str) -> Markup:
        """The number at a key, marked with that key and its full value."""
        value = self.value(key)
        if value is None:
            return Markup('<span class="unknown" data-key="{}">{}</span>').format(key, UNKNOWN)
        return Markup('<data data-key="{}" value="{!r}">{}</data>').format(key, value, shown(key, value))

    def svg(self, key: str) -> Markup:
        """The same for the text of a drawing."""
        value = self.value(key)
        text = UNKNOWN if value is None else shown(key, value)
        return Markup('<tspan data-key="{}">{}</tspan>').format(key, text)


def shown(key: str, value: Any) -> str:
    """A value as people read it, numbers with the unit that the last name in their key ends with."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    name = next(name for name in reversed(key.split(".")) if not name.isdigit()).removesuffix("_ci95")
    for suffix, show in _UNITS:
        if name.endswith(suffix):
            return show(value)
    return f"{value:,}" if isinstance(value, int) else three_digits(value)


def heading(name: str) -> str:
    """The heading of a column: its name without the unit, which stands behind each number."""
    base = HEADINGS.get(name, name).removesuffix("_ci95")
    suffix = next((suffix for suffix, _ in _UNITS if base.endswith(suffix)), "")
    if suffix.startswith("_vs_") or suffix == "_share":
        suffix = ""
    words = base.removesuffix(suffix).replace("_vs_goodput", " of goodput").replace("_", " ")
    return f"{words} 95% CI" if name.endswith("_ci95") else words


def scaled(value: float, unit: str) -> str:
    """A number of three digits with a unit and its prefix: `7.49 MB`, `38.0 ms`."""
    prefixes = _PREFIXES_OF_SECONDS if unit == "s" else _PREFIXES
    rounded = abs(float(f"{value:.3g}"))
    factor = max((each for each in prefixes if each <= rounded), default=min(prefixes) if rounded else 1.0)
    return f"{three_digits(value / factor)}{NO_BREAK_SPACE}{prefixes[factor]}{unit}"


def three_digits(value: float) -> str:
    """A number rounded to three significant digits, or to a whole number above a thousand."""
    if abs(value) >= 999.5 or value == 0:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.2g}"

"""Pages read back as a browser reads them, and their numbers held against the report's JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from distsqz import open_run
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.page.page import page_of
from distsqz.report.report import read_sections, render_report

VOID = {"meta", "link", "br"}

FACTORS = {
    "": 1, "%": 1e-2, "/s": 1,
    "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9,
    "s": 1, "ms": 1e-3, "µs": 1e-6,
    "bit/s": 1, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9,
}  # fmt: skip
"""What a number of a unit is multiplied with."""


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    def text(self) -> str:
        return "".join(each if isinstance(each, str) else each.text() for each in self.children)

    def all(self, tag: str | None = None, **attributes: str) -> list[Element]:
        found = [] if tag and self.tag != tag else [self]
        found = [each for each in found if all(each.attributes.get(k) == v for k, v in attributes.items())]
        for child in self.children:
            if isinstance(child, Element):
                found += child.all(tag, **attributes)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes what is not open"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@dataclass
class Page:
    html: str
    root: Element
    document: dict[str, Any]
    """What `report --format json` prints of the same runs."""

    def keyed(self) -> list[Element]:
        return [each for each in self.root.all() if "data-key" in each.attributes]

    def number(self, key: str) -> str:
        """How the page shows the number of a key; every place shows the same."""
        texts = {each.text() for each in self.keyed() if each.attributes["data-key"] == key}
        (text,) = texts
        return text.replace("\u00a0", " ")


def page_of_run(*paths: Path) -> Page:
    runs = [MeasuredRun(open_run(path)) for path in paths]
    html = page_of(runs)
    reader = _Reader()
    reader.feed(html)
    assert reader.open == [reader.root]
    printed = render_report(runs, read_sections(runs), "json")
    return Page(html, reader.root, json.loads(printed))


def value_at(document: Any, key: str) -> Any:
    for name in key.split("."):
        document = document[int(name)] if isinstance(document, list) else document[name]
    return document


def shows(text: str, value: Any, key: str) -> bool:
    """Whether a text is that value at its own precision."""
    if value is None:
        return text == "–"  # noqa: RUF001
    if isinstance(value, str):
        return text == value
    match = re.fullmatch(r"([+-]?[\d,]*\.?\d+(?:e-?\d+)?)\s?(\S*)", text.replace("\u00a0", " "))
    if match is None:
        return False
    digits, unit = match.groups()
    if "_bytes_per_s" in key:
        value = 8 * value
    elif key.endswith("_us"):
        value = value / 1e6
    mantissa, _, exponent = digits.replace(",", "").partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    half_a_digit = 0.5 * 10.0**-decimals * FACTORS[unit]
    shown = float(digits.replace(",", "")) * FACTORS[unit]
    # Half a digit more where a number of three digits below a thousand has no decimal, such as 160 ms.
    return abs(shown - value) <= half_a_digit * (1 + 1e-9)

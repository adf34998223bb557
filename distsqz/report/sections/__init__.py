"""The sections of the report in the order of printing. A new section is a module here and a line below."""

from __future__ import annotations

from importlib import import_module

from distsqz.report.section import SectionBuilder


def _builder(module: str) -> SectionBuilder:
    builder: SectionBuilder = import_module(f"{__name__}.{module}").section
    return builder


TRAINING = tuple(
    _builder(module)
    for module in (
        "ending",
        "sessions",
        "models",
        "strategies",
        "options",
        "speedups",
        "cells",
        "views",
        "links",
        "shards",
        "staleness",
        "retransmissions",
        "instruments",
        "remarks",
    )
)
"""Sections of runs that trained."""

SHIPPING = (_builder("shipments"),)
"""Sections of runs that sent models to clients."""

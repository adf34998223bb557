"""The sections of the report in the order of printing. A new section is a module and a line here."""

from __future__ import annotations

from distsqz.report.section import SectionBuilder
from distsqz.report.sections import (
    cells,
    ending,
    links,
    models,
    remarks,
    shards,
    shipments,
    staleness,
    strategies,
    views,
)

TRAINING: tuple[SectionBuilder, ...] = (
    ending.section,
    models.section,
    strategies.section,
    cells.section,
    views.section,
    links.section,
    shards.section,
    staleness.section,
    remarks.section,
)
"""Sections of runs that trained."""

SHIPPING: tuple[SectionBuilder, ...] = (shipments.section,)
"""Sections of runs that sent models to clients."""

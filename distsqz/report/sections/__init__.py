"""The sections of the report, in the order in which they are printed."""

from __future__ import annotations

from distsqz.report.section import SectionBuilder
from distsqz.report.sections import cells

TRAINING: tuple[SectionBuilder, ...] = (cells.section,)
"""Sections of runs that trained."""

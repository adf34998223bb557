"""What tells the runs of a report apart: the rates of their links, and the sessions over alike links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from distsqz.report.claims import links_in_words
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.pooling import links_of_cells

OTHER_LINKS = "links of no set rate"


def rates_of(run: MeasuredRun) -> str | None:
    """The rates of a run's emulated links in words. None where they are not known."""
    if not run.cells:
        return None
    known = links_of_cells(run.cells[:1])
    return links_in_words({**known, "goodput_bytes_per_s": None})


def run_labels(runs: Sequence[MeasuredRun]) -> dict[str, str]:
    """A label for each run by its id, such as `1 Gbit/s, session 2`; empty for a single run."""
    rates = {run.run_id: rates_of(run) for run in runs}
    if len(rates) == 1:
        return {}
    number_of = Counter(rates.values())
    counted: Counter[str | None] = Counter()
    labels = {}
    for run_id, rate in rates.items():
        counted[rate] += 1
        words = [rate or OTHER_LINKS] if len(number_of) > 1 else []
        words += [f"session {counted[rate]}"] if number_of[rate] > 1 else []
        labels[run_id] = ", ".join(words)
    return labels

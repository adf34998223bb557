"""Cells: for each model under each strategy the bytes, the step time and where the time went."""

from __future__ import annotations

from collections.abc import Sequence

from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section

COLUMNS = (
    "cell",
    "model",
    "strategy",
    "world_size",
    "steps",
    "params",
    "payload_bytes",
    "predicted_tx_bytes",
    "tcp_tx_bytes",
    "tcp_vs_predicted",
    "step_s",
    "step_s_ci95",
    "compute_s",
    "exposed_comm_s",
    "comm_share",
    "wait_s",
    "wait_share",
    "samples_per_s",
    "busbw_bytes_per_s",
)
SERVER_COLUMNS = ("servers", "placement", "consistency")
WHERE_KNOWN = ("busbw_vs_goodput", "comm_vs_bound", "accuracy")
"""Columns that are shown only if a cell has a value for them."""
SUMS = "Times are medians over steps, shares are of all steps' time together, so that they need not agree."
SHARES = (
    "Shares of communication do not compare across strategies: servers compute on the workers' cores, and "
    "their answers are waited for in the next forward pass. Step times compare."
)


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row for each cell of every run."""
    rows = tuple(row for run in runs for row in run.rows)
    known = {name for row in rows for name, value in row.items() if value is not None}
    optional = [
        name for name in SERVER_COLUMNS if len({str(row.get(name)) for row in rows if row.get(name)}) > 1
    ]
    optional += [name for name in WHERE_KNOWN if name in known]
    if "servers" not in known:  # under all-reduce, busbw_vs_goodput says the same
        optional = [name for name in optional if name != "comm_vs_bound"]
    several = ["run_id"] if len(runs) > 1 else []
    return Section(
        key="cells",
        title="Cells" if several else "Cells of " + "".join(run.run_id for run in runs),
        columns=(*several, *COLUMNS, *optional),
        identifying=len(several) + 1,
        rows=rows,
        notes=(SHARES, SUMS) if len({row["strategy"] for row in rows}) > 1 else (SUMS,),
        in_csv=True,
    )

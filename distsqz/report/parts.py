"""The parts of a step's time by name, as figures and the page call them."""

from __future__ import annotations

PART_NAMES = {
    "data_s": "loading data",
    "forward_s": "forward",
    "backward_s": "backward",
    "wait_s": "waiting for the last rank",
    "exposed_comm_s": "exposed communication",
    "optimizer_s": "optimizer",
    "other_s": "other",
}
"""By column, in the order of the step."""

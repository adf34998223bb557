"""A session's baseline: rank 0 trains a model by itself while the other workers wait.

It tells what one host computes where nothing has to be synchronised and no other worker uses its cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch.distributed as dist

from distsqz.metering.meter import Instruments
from distsqz.theory.placement import Placement
from distsqz.training.cell import Cell
from distsqz.training.outbox import Outbox
from distsqz.training.replica import Replica
from distsqz.training.trainer import Trainer


class Baseline:
    """A cell that rank 0 trains alone, as every rank of the session takes part in it."""

    def __init__(
        self,
        cell: Cell,
        replica: Replica,
        instruments: Instruments,
        outbox: Outbox,
        weights: Mapping[str, Any] | None,
    ) -> None:
        """Builds the model on rank 0; see `Trainer` for the arguments."""
        self.cell = cell
        self._step = 0
        self._trainer: Trainer | None = None
        if replica.rank == 0:
            by_itself = Placement(workers=(replica.host,), spans_hosts=False)
            self._trainer = Trainer(cell, replace(replica, placement=by_itself), instruments, outbox, weights)

    @property
    def remaining(self) -> int:
        """Number of steps that are left."""
        return self.cell.total_steps - self._step

    def run(self, steps: int) -> None:
        """Makes `steps` steps on rank 0. All ranks meet after each, so that no wait is longer than a step."""
        for _ in range(steps):
            if self._trainer:
                self._trainer.run(1)
            dist.barrier()
        self._step += steps

    def check(self) -> None:
        """Does nothing: there is no other replica."""

    def close(self) -> None:
        """Ends processes that decode images."""
        if self._trainer:
            self._trainer.close()

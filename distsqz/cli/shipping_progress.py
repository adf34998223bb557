"""A progress bar for each shipment, on stderr: bytes sent to all clients, and clients that are done."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from distsqz.cli.progress_console import progress_console


class ShippingProgress:
    """Shows the progress of each shipment from the start of the first one; called with every change."""

    def __init__(self, sizes: Mapping[str, int], clients: int, heading: str) -> None:
        """Prepares a bar for each shipment.

        Args:
            sizes: size of each file in bytes, by the shipment's name.
            clients: number of clients that receive a copy.
            heading: a line above the bars.
        """
        self._heading = heading
        self._clients = clients
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("{task.fields[clients]}"),
            TimeElapsedColumn(),
            console=progress_console(),
        )
        self._tasks = {
            name: self._progress.add_task(name, total=size * clients, start=False, clients="")
            for name, size in sizes.items()
        }

    def __enter__(self) -> ShippingProgress:
        """Draws nothing yet, so that a refused request prints one line and no bars."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops updating; the bars stay as they are."""
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, cell: str, sent_bytes: int, arrived: int) -> None:
        """Moves a shipment's bar."""
        if not self._progress.live.is_started:
            print(self._heading, file=sys.stderr)
            self._progress.start()
        task = self._tasks[cell]
        self._progress.start_task(task)
        self._progress.update(task, completed=sent_bytes, clients=f"{arrived}/{self._clients} clients")

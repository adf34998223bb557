"""The servers of a session as plain processes, without Ray, asked through sockets in a folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from distsqz.metering.schema import UpdateRecord
from distsqz.sync.flat import joined
from distsqz.sync.parameter_server import ShardPlace
from distsqz.sync.shard import Shard
from distsqz.training.server import Server
from distsqz.training.session import SessionPlan


@contextlib.contextmanager
def running_servers(plan: SessionPlan, folder: Path) -> Iterator[None]:
    """The servers that a session asks for, if any; they are gone in the end, however it ends.

    Raises:
        ProcessException: a server failed.
    """
    count = plan.server.shards if plan.server else 0
    servers = mp.spawn(serve, args=(plan, folder), nprocs=count, join=False)
    try:
        while not all((folder / f"server-{index}").exists() for index in range(count)):
            servers.join(0.01)
        yield
        for index in range(count):
            ask(folder, index, "stop")
        servers.join()
    finally:
        for process in servers.processes:
            process.kill()


def serve(index: int, plan: SessionPlan, folder: Path) -> None:
    """Runs a server until it is told to stop, and ends this process."""
    records: list[UpdateRecord] = []
    if delay := os.environ.get("DISTSQZ_TEST_UPDATE_S"):
        _delay_updates(float(delay))
    server = Server(plan, index, f"server{index}", "127.0.0.1", records.append)
    with Listener(str(folder / f"server-{index}")) as listener:
        method = ""
        while method != "stop":
            with listener.accept() as connection:
                method, arguments = connection.recv()
                if method == "records":
                    connection.send(records)
                elif method != "stop":
                    asked = getattr(server, method)
                    connection.send(asked(*arguments) if callable(asked) else asked)
    os._exit(0)  # Gloo's threads now and then crash an interpreter that winds up


def _delay_updates(delay_s: float) -> None:
    """Makes every update of a chunk in this process take so much longer."""
    update = Shard._update

    def late(*arguments: Any) -> None:
        time.sleep(delay_s)
        update(*arguments)

    Shard._update = late  # type: ignore[method-assign]


def ask(folder: Path, index: int, method: str, *arguments: Any) -> Any:
    """What a server answers."""
    with Client(str(folder / f"server-{index}")) as connection:
        connection.send((method, arguments))
        return connection.recv() if method != "stop" else None


class LocalServers:
    """A worker's view of them."""

    def __init__(self, folder: Path, servers: int) -> None:
        self._folder = folder
        self._servers = servers
        self.places: Sequence[ShardPlace] = self._ask("place")

    def admit(self, cell: str, rank: int, name: str, step: int) -> None:
        self._ask("admit", cell, rank, name, step)

    def parameters(self, cell: str) -> torch.Tensor:
        return joined(self._ask("parameters", cell))

    def momentum(self, cell: str) -> torch.Tensor:
        return joined(self._ask("momentum", cell))

    def digests(self, cell: str) -> dict[tuple[int, int], int]:
        return {piece: value for part in self._ask("digests", cell) for piece, value in part.items()}

    def progress(self, cell: str, rank: int) -> int:
        return min(self._ask("progress", cell, rank))

    def keep_buffers(self, cell: str, buffers: Mapping[str, torch.Tensor]) -> None:
        ask(self._folder, 0, "keep_buffers", cell, {name: value.clone() for name, value in buffers.items()})

    def buffers(self, cell: str) -> Mapping[str, torch.Tensor]:
        stored: Mapping[str, torch.Tensor] = ask(self._folder, 0, "buffers", cell)
        return stored

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        return [ask(self._folder, index, method, *arguments) for index in range(self._servers)]

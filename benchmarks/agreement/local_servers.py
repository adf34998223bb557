"""The servers of a session as plain processes, without Ray, asked through sockets in a folder."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessContext
from torch.multiprocessing.spawn import start_processes as torch_start_processes

from distsqz.metering.schema import UpdateRecord
from distsqz.strategies.parameter_server.flat import joined
from distsqz.strategies.parameter_server.worker import ShardPlace
from distsqz.training.server import Server
from distsqz.training.session import SessionPlan

multiprocessing.set_forkserver_preload(["distsqz.training.session", "distsqz.training.server"])


def start_processes(
    function: Callable[..., None], arguments: tuple[Any, ...], count: int, *, join: bool = True
) -> ProcessContext:
    """Calls a function in new processes, which have torch and the trainer imported as they begin."""
    context: ProcessContext = torch_start_processes(  # type: ignore[no-untyped-call]
        function, arguments, count, join, start_method="forkserver"
    )
    return context


def nothing() -> None:
    """Prepares nothing."""


@contextlib.contextmanager
def running_servers(plan: SessionPlan, folder: Path, prepare: Callable[[], None] = nothing) -> Iterator[None]:
    """Runs the servers that a session asks for, if any; they are gone in the end, however it ends.

    Args:
        plan: of the session.
        folder: where the servers' sockets are made.
        prepare: called first in every server; must be picklable.

    Raises:
        ProcessException: a server failed.
    """
    count = plan.server.shards if plan.server else 0
    servers = start_processes(serve, (plan, folder, prepare), count, join=False)
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


def serve(index: int, plan: SessionPlan, folder: Path, prepare: Callable[[], None]) -> None:
    """Runs a server until it is told to stop."""
    prepare()
    records: list[UpdateRecord] = []
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
        """Lets every server connect to a worker."""
        self._ask("admit", cell, rank, name, step)

    def parameters(self, cell: str) -> torch.Tensor:
        """A cell's parameters, from all its shards."""
        return joined(self._ask("parameters", cell))

    def momentum(self, cell: str) -> torch.Tensor:
        """Their momentum."""
        return joined(self._ask("momentum", cell))

    def digests(self, cell: str) -> dict[tuple[int, int], int]:
        """Digests of all pieces of a cell."""
        return {piece: value for part in self._ask("digests", cell) for piece, value in part.items()}

    def progress(self, cell: str, rank: int) -> int:
        """Steps that a worker has pushed to every shard."""
        steps: list[int] = self._ask("progress", cell, rank)
        return min(steps)

    def keep_buffers(self, cell: str, buffers: Mapping[str, torch.Tensor]) -> None:
        """Leaves rank 0's buffers with server 0, for workers that begin later."""
        ask(self._folder, 0, "keep_buffers", cell, {name: value.clone() for name, value in buffers.items()})

    def buffers(self, cell: str) -> Mapping[str, torch.Tensor]:
        """The buffers that rank 0 left last."""
        stored: Mapping[str, torch.Tensor] = ask(self._folder, 0, "buffers", cell)
        return stored

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        return [ask(self._folder, index, method, *arguments) for index in range(self._servers)]

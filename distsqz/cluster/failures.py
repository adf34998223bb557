"""What a worker says before it gives up, and which of many such words tells the reason."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from distsqz.errors import RunError

PARTING_S = 2.0
"""How long after a worker's failure the others are listened to before they are ended."""
ANSWER_S = 1.0
"""How long a host may take to answer whether it is there."""
CALL_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A worker's last words."""

    text: str
    cell: str | None
    host: str
    rank: int
    step: int | None
    trace: str
    of_communication: bool
    """It only met another rank's end: its peers' connections broke."""


def failure_of(error: Exception, rank: int, host: str) -> Failure:
    """What the worker of a rank reports of `error`, while it handles it on a host."""
    known = error if isinstance(error, RunError) else None
    text = known.text if known else f"{type(error).__name__}: {error}"
    return Failure(
        text=text.splitlines()[0],
        cell=known.cell if known else None,
        host=host,
        rank=rank,
        step=known.step if known else None,
        trace=traceback.format_exc(),
        of_communication=_is_of_communication(error),
    )


def _is_of_communication(error: BaseException) -> bool:
    """Whether a collective broke; Gloo has no exception of its own, its messages name its source files."""
    from torch.distributed import DistError

    cause = error.__cause__ or error
    return isinstance(cause, DistError | ConnectionError) or (
        isinstance(cause, RuntimeError) and "/gloo/" in str(cause)
    )


def hosts_without_answer(addresses: Mapping[str, tuple[str, int]]) -> set[str]:
    """Of hosts, given with an address that each listens on: those that a connection cannot be made to."""

    def is_silent(address: tuple[str, int]) -> bool:
        try:
            socket.create_connection(address, timeout=ANSWER_S).close()
        except OSError:
            return True
        return False

    with ThreadPoolExecutor(max_workers=max(1, len(addresses))) as pool:
        silent = pool.map(is_silent, addresses.values())
    return {host for host, gone in zip(addresses, silent, strict=True) if gone}


class Heartbeats:
    """Calls hosts now and then, and tells which have not answered for a while: Ray takes minutes for it."""

    def __init__(self, addresses: Mapping[str, tuple[str, int]], silence_s: float) -> None:
        """`addresses`: of hosts, by any name, on which each listens."""
        self._addresses = addresses
        self._silence_s = silence_s
        now = time.monotonic()
        self._answered_at = dict.fromkeys(addresses, now)
        self._next_at = now + CALL_EVERY_S

    def missing(self) -> set[str]:
        """Those that have not answered for that long; nobody if the next call is not due yet."""
        if time.monotonic() < self._next_at:
            return set()
        silent = hosts_without_answer(self._addresses)
        now = time.monotonic()
        self._answered_at.update(dict.fromkeys(self._addresses.keys() - silent, now))
        self._next_at = now + CALL_EVERY_S
        return {host for host in silent if now - self._answered_at[host] >= self._silence_s}


def explain(
    error: Exception | None,
    failures: Sequence[Failure],
    hosts: Sequence[str],
    without_answer: Collection[str] = (),
) -> RunError:
    """The failure that the others followed from, as one line.

    A rank that fails by itself says so; one that is killed says nothing, but Train names it; one that is cut
    off says nothing either, and Train does not know; ranks that lost their peers come last.

    Args:
        error: what Train raised, say, with the workers that it knows to have failed in `worker_failures`;
            None if it has not noticed yet.
        failures: the workers' last words, in the order they came; some, where `error` is None.
        hosts: host names by rank, as far as the workers came to tell them.
        without_answer: names of hosts that do not answer the one that asks.
    """
    said = {failure.rank for failure in failures}
    failed: dict[int, Exception] = getattr(error, "worker_failures", {})
    silent = [(rank, reason) for rank, reason in failed.items() if rank not in said]
    own = [failure for failure in failures if not failure.of_communication]
    if failures and not own and not silent and len(said | failed.keys()) < len(hosts):
        return _cut_off(failures, hosts, without_answer)
    if own or (failures and not silent):
        first = (own or failures)[0]
        told = RunError(first.text, cell=first.cell, host=first.host, rank=first.rank, step=first.step)
        told.add_note(f"On the worker:\n{first.trace}")
        return told
    if silent:
        rank, reason = silent[0]
        reason = getattr(reason, "health_check_failure", reason)  # what Train wraps
        witness = failures[0] if failures else None
        return RunError(
            f"the worker died ({_first_line(reason)})",
            cell=witness.cell if witness else None,
            host=hosts[rank] if rank < len(hosts) else None,
            rank=rank,
            step=witness.step if witness else None,
        )
    assert error is not None  # else there are failures, and one of them was told above
    return RunError(_first_line(getattr(error, "controller_failure", error)))


def _cut_off(failures: Sequence[Failure], hosts: Sequence[str], without_answer: Collection[str]) -> RunError:
    """Ranks waited in vain for others that do not even say so: the fewer are those that are cut off.

    Of the silent, some may only be late to say it; those whose host does not answer are not.
    """
    heard = {failure.rank for failure in failures}
    silent = [rank for rank in range(len(hosts)) if rank not in heard]
    silent = [rank for rank in silent if hosts[rank] in without_answer] or silent
    first = failures[0]
    lost = min(silent, sorted(heard), key=len)
    of_all = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in lost)
    told = RunError(
        f"cut off from the other ranks ({of_all}); they waited in vain: {_gist(first.text)}",
        cell=first.cell,
        host=hosts[lost[0]],
        rank=lost[0],
        step=first.step,
    )
    told.add_note(f"On a worker that waited:\n{first.trace}")
    return told


def _gist(text: str) -> str:
    """What Gloo has to say, without the words of its own and torch's around it."""
    return text.rsplit(".cc:", 1)[-1].split("] ", 1)[-1].split(". ", 1)[0]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

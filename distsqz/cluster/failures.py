"""Reports of failed workers, and the failure that caused the others."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from distsqz.errors import RunError

REPORTING_S = 3.0
"""Seconds after the first failure in which other workers can report theirs before they are ended."""
ANSWER_S = 1.0
"""Seconds within which a host must accept a connection."""
CALL_EVERY_S = 5.0
"""Seconds between two connections to every host."""

IN_GLOO_MESSAGES = ("/gloo/", "Application timeout caused pair closure")
"""Parts of Gloo's messages: most name a source file; that of a connection closed by its timeout does not."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The failure of one worker, as the worker reports it."""

    text: str
    """The reason, in one line."""
    cell: str | None
    host: str
    rank: int
    step: int | None
    trace: str
    """Traceback on the worker."""
    of_communication: bool
    """Whether the worker failed only because connections to other ranks broke."""


def failure_of(error: Exception, rank: int, host: str) -> Failure:
    """Describes the exception that a worker is handling.

    Args:
        error: the exception.
        rank: rank of the worker.
        host: label of the host of the worker.
    """
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
    """Whether communication failed. Gloo has no exception of its own, but its messages can be recognised."""
    from torch.distributed import DistError

    cause = error.__cause__ or error
    return isinstance(cause, DistError | ConnectionError) or (
        isinstance(cause, RuntimeError) and any(each in str(cause) for each in IN_GLOO_MESSAGES)
    )


def hosts_without_answer(addresses: Mapping[str, tuple[str, int]]) -> set[str]:
    """Hosts that accept no connection.

    Args:
        addresses: an address and port on which each host listens.
    """

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
    """Connects to hosts regularly, to detect those that stop answering. Ray itself takes minutes for that."""

    def __init__(self, addresses: Mapping[str, tuple[str, int]], silence_s: float) -> None:
        """Starts with all hosts answering.

        Args:
            addresses: an address and port on which each host listens, by any key.
            silence_s: seconds without an answer after which a host counts as missing.
        """
        self._addresses = addresses
        self._silence_s = silence_s
        now = time.monotonic()
        self._answered_at = dict.fromkeys(addresses, now)
        self._next_at = now + CALL_EVERY_S

    def missing(self) -> set[str]:
        """Hosts that have not answered for `silence_s` seconds; empty if the next call is not due yet."""
        if time.monotonic() < self._next_at:
            return set()
        silent = hosts_without_answer(self._addresses)
        now = time.monotonic()
        self._answered_at.update(dict.fromkeys(self._addresses.keys() - silent, now))
        self._next_at = now + CALL_EVERY_S
        return {host for host in silent if now - self._answered_at[host] >= self._silence_s}


def explain(
    reports: Sequence[Failure],
    lost: Mapping[int, Exception],
    hosts: Sequence[str],
    without_answer: Collection[str] = (),
) -> RunError:
    """The failure that caused the others, in one line.

    A rank that fails by itself reports it. A rank that is killed reports nothing, but Ray notices its end. A
    rank that is disconnected reports nothing, and Ray does not notice. Ranks that lost their peers come last.

    Args:
        reports: the workers' failures in the order of arrival.
        lost: what Ray says of workers that ended without a report, by rank; not empty if `reports` is.
        hosts: labels of hosts by rank.
        without_answer: labels of hosts that do not answer.
    """
    own = [report for report in reports if not report.of_communication]
    if lost and not own:
        rank, reason = next(iter(lost.items()))
        witness = reports[0] if reports else None
        return RunError(
            f"the worker died ({_first_line(reason)})",
            cell=witness.cell if witness else None,
            host=hosts[rank],
            rank=rank,
            step=witness.step if witness else None,
        )
    if not own and len(reports) < len(hosts):
        return _cut_off(reports, hosts, without_answer)
    first = (own or reports)[0]
    error = RunError(first.text, cell=first.cell, host=first.host, rank=first.rank, step=first.step)
    error.add_note(f"On the worker:\n{first.trace}")
    return error


def _cut_off(failures: Sequence[Failure], hosts: Sequence[str], without_answer: Collection[str]) -> RunError:
    """Some ranks timed out and the others reported nothing. The smaller group is taken to be disconnected.

    A rank that reports nothing may only be late, unless its host does not answer.
    """
    reporting = {failure.rank for failure in failures}
    silent = [rank for rank in range(len(hosts)) if rank not in reporting]
    silent = [rank for rank in silent if hosts[rank] in without_answer] or silent
    first = failures[0]
    lost = min(silent, sorted(reporting), key=len)
    of_all = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in lost)
    result = RunError(
        f"cut off from the other ranks ({of_all}); they waited in vain: {_gist(first.text)}",
        cell=first.cell,
        host=hosts[lost[0]],
        rank=lost[0],
        step=first.step,
    )
    result.add_note(f"On a worker that waited:\n{first.trace}")
    return result


def _gist(text: str) -> str:
    """The core of a message of Gloo, without source locations and torch's additions."""
    return text.rsplit(".cc:", 1)[-1].split("] ", 1)[-1].split(". ", 1)[0]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

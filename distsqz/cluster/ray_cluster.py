"""The Ray of a run: an embedded one, started and stopped by the run, or a cluster that is joined."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import ray
import yaml
from ray._private.authentication.authentication_token_setup import (
    AUTH_MODE_ENV_VAR,
    AuthenticationTokenLoader,
    _enable_token_auth,
)
from ray._private.grpc_utils import init_grpc_channel
from ray._private.ray_constants import GLOBAL_GRPC_OPTIONS
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._private.utils import read_ray_address
from ray.exceptions import AuthenticationError, RayError

from distsqz.addresses import host_of, is_same_host
from distsqz.cluster.options import EMBEDDED
from distsqz.errors import InvalidValue, RequestError
from distsqz.interrupts import ignored_interrupts, noted_interrupts
from distsqz.runs.cores import cores_of_this_host

LENT_PER_CORE = 4
"""Workers per core on an embedded Ray. With more workers than cores bytes are still right, but times are
not."""


QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # by default workers yield to Ray's daemons
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",  # never
    "RAY_prestart_worker_first_driver": "0",  # processes that workers, with their own environment, cannot use
}
"""Settings that stop Ray from gathering metrics and from starting a process for every CPU in advance. An
embedded Ray has no dashboard to show metrics, and gathering takes a fifth of the time of Ray's own processes,
on cores that train (benchmarks/overhead)."""

AUTH_TOKEN_ENV_VAR = "RAY_AUTH_TOKEN"
DEFAULT_TMPDIR = "/tmp"
LONGEST_SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket that Ray creates in its directory."""
SOCKET_PATH_BYTES = 107
"""Maximum length of the path of a Unix socket (unix(7))."""
FILE_SYSTEM_FAULTS = (errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of directories that are missing, full or not writable."""
LEAST_FREE_BYTES = 100 << 20
"""Least free space for Ray's logs. On a full disk Ray does not start and does not say why."""

RAY_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""A call that the head of every version of Ray answers, with its id or with a request for a token."""
CONNECT_TIMEOUT_S = 8.0
JOIN_TIMEOUT_S = 120.0
EXIT_TIMEOUT_S = 2.0
"""Seconds that a process of an embedded Ray may take to end after Ray has stopped."""
FREE_TIMEOUT_S = 10.0
"""Seconds within which the resources of a job that has just ended become free."""


def named_cluster(address: str | None) -> str | None:
    """Address of the cluster to join: `address`, RAY_ADDRESS, or that of a Ray started on this host.

    None if there is none, or if `address` is `local`: a Ray is started for the run.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address == EMBEDDED:
        return None
    return address or _started_here()


def _started_here() -> str | None:
    """Address of a Ray that `ray start` started on this host, if it still answers."""
    address = read_ray_address()
    if address and _answer_of(address, timeout_s=2.0) in (
        grpc.StatusCode.OK,
        grpc.StatusCode.UNAUTHENTICATED,
    ):
        return str(address)
    return None


def _answer_of(address: str, timeout_s: float) -> grpc.StatusCode:
    """Status of a call to Ray's head at an address. Ray itself would try for 40 seconds."""
    with init_grpc_channel(address, GLOBAL_GRPC_OPTIONS) as channel:
        try:
            channel.unary_unary(RAY_CALL)(b"", timeout=timeout_s, wait_for_ready=True)
        except AuthenticationError:  # a token is required and there is none
            return grpc.StatusCode.UNAUTHENTICATED
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def node_addresses() -> dict[str, tuple[str, int]]:
    """An address and port that each living Ray node listens on, by node id."""
    return {
        node["NodeID"]: (node["NodeManagerAddress"], node["NodeManagerPort"])
        for node in ray.nodes()
        if node["Alive"]
    }


@contextlib.contextmanager
def ray_cluster(address: str | None, workers: int, gpus: bool) -> Iterator[bool]:
    """Joins the cluster that `named_cluster` finds, or starts an embedded Ray; leaves or stops it at the end.

    Args:
        address: address of the cluster, `local`, or None.
        workers: number of workers that need a CPU (and a GPU if `gpus`).
        gpus: whether each worker needs a GPU.

    Yields:
        Whether Ray is embedded.

    Raises:
        RequestError: Ray cannot be joined or started, or has too few CPUs or GPUs for the workers.
    """
    address = named_cluster(address)
    try:
        if address:
            _wait_for_nodes(_join(address))
            _check_cluster_has("CPU", workers)
        else:
            _start_embedded(workers)
        if gpus:
            _check_cluster_has("GPU", workers)
            _check_gpus_are_beside_cpus(workers)
        yield not address
    finally:
        # After a failure on a cluster this process ends now, and its part of the cluster with it. If Ray were
        # shut down first, a thread that still waits for Ray would end this process with another status.
        error = sys.exc_info()[1]
        if not address or error is None or isinstance(error, RequestError):
            _shut_down(embedded=not address)


def _shut_down(embedded: bool) -> None:
    """Leaves or stops Ray. A second Ctrl-C is ignored, because it would leave processes running."""
    with ignored_interrupts():
        ours = psutil.Process().children(recursive=True) if embedded else []
        ray.shutdown()
        # Rarely, an actor of Ray hangs in its exit after its raylet is gone.
        _, hanging = psutil.wait_procs(ours, timeout=EXIT_TIMEOUT_S)
        for process in hanging:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _start_embedded(workers: int) -> None:
    cores = cores_of_this_host()
    if workers > LENT_PER_CORE * cores:
        raise InvalidValue(
            "workers",
            workers,
            f"{cores} cores here carry at most {LENT_PER_CORE * cores} workers; ask for fewer or join a "
            "cluster with `address`",
        )
    for name, value in QUIET_RAY.items():
        os.environ.setdefault(name, value)
    directory = _ray_directory()
    _make_token()
    try:
        _init(
            address="local",
            num_cpus=max(workers, cores),
            include_dashboard=False,
            _temp_dir=str(directory),
        )
    except OSError as error:
        raise RequestError(f"Ray cannot start on this host: {_why_not(error, directory)}") from error
    # With `log_to_driver` off, the log monitor would read logs for nobody. No setting disables it.
    ray._private.worker._global_node.kill_log_monitor()


def _why_not(error: OSError, directory: Path) -> str:
    """Why Ray with its files in `directory` did not start, and what it needs if that is known."""
    if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"its processes do not answer ({reason}); their logs are in {directory}/session_latest/logs"
    place = f"{error.filename}: " if error.filename else ""
    needs = f"; it needs a /dev/shm, and room in {directory}" if error.errno in FILE_SYSTEM_FAULTS else ""
    return f"{place}{error.strerror}{needs}"


def _ray_directory() -> Path:
    """The directory for sockets and logs of an embedded Ray, in RAY_TMPDIR, TMPDIR or /tmp.

    If Ray cannot use the directory that is set, /tmp is used and a line on stderr gives the reason.

    Raises:
        RequestError: Ray cannot use /tmp either.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "TMPDIR")
    wanted = Path(os.environ.get(variable) or DEFAULT_TMPDIR).absolute()
    if (fault := _fault_of(wanted / "ray")) is None:
        return wanted / "ray"
    default = Path(DEFAULT_TMPDIR)
    if _fault_of(default / "ray") is not None:
        longest = SOCKET_PATH_BYTES - len(f"/ray/{LONGEST_SOCKET}")
        raise RequestError(
            f"{variable}={wanted}: {fault}; set it to a directory with room, that you can "
            f"write, its path at most {longest} bytes long"
        )
    print(f"{variable}={wanted}: {fault}; Ray's files are kept in {default}", file=sys.stderr)
    return default / "ray"


def _fault_of(directory: Path) -> str | None:
    """Why Ray cannot use a directory, which is created if it is missing; None if it can."""
    if len(os.fsencode(directory / LONGEST_SOCKET)) > SOCKET_PATH_BYTES:
        return "its path is too long for Ray's sockets"
    if not directory.parent.is_dir():
        return "there is no such directory"
    try:
        directory.mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return f"Ray cannot use it ({error.strerror})"
    if free < LEAST_FREE_BYTES:
        return f"Ray needs {LEAST_FREE_BYTES >> 20} MiB there and {free >> 20} MiB are free"
    return None


def _make_token() -> None:
    """Sets a token for an embedded Ray, unless this host has one. Ray would write one into the home."""
    tokens = AuthenticationTokenLoader.instance()
    if AUTH_MODE_ENV_VAR not in os.environ and not tokens.has_token(ignore_auth_mode=True):
        os.environ[AUTH_TOKEN_ENV_VAR] = secrets.token_hex(32)
        tokens.reset_cache()


def _join(address: str) -> str:
    """Joins the Ray at an address; returns the address as its head knows it."""
    if address.startswith("ray://"):
        raise InvalidValue(
            "address",
            address,
            "run on a node of the cluster and give its own address, such as HOST:6379",
        )
    try:
        bootstrap = canonicalize_bootstrap_address_or_die(address)
        _check_ray_answers(address, bootstrap)
        _init(address=bootstrap)
        return str(bootstrap)
    except (ConnectionError, ValueError, OSError, RuntimeError, RayError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidValue("address", address, f"cannot join that cluster ({reason})") from error


def _check_ray_answers(address: str, bootstrap: str) -> None:
    answer = _answer_of(bootstrap, CONNECT_TIMEOUT_S)
    if answer is grpc.StatusCode.UNAUTHENTICATED and bootstrap == read_ray_address() and _use_own_token():
        answer = _answer_of(bootstrap, CONNECT_TIMEOUT_S)
    if answer is grpc.StatusCode.UNAUTHENTICATED:
        raise InvalidValue(
            "address",
            address,
            f"the Ray there wants its token; set {AUTH_MODE_ENV_VAR}=token, with the token of its head in "
            f"~/.ray/auth_token, or start one of your own with `address={EMBEDDED}`",
        )
    if answer in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise InvalidValue(
            "address",
            address,
            f"no Ray answers there within {CONNECT_TIMEOUT_S:.0f} s; start one with `ray start --head` or "
            "leave `address` out",
        )
    if answer is not grpc.StatusCode.OK:
        raise InvalidValue("address", address, f"what answers there is no Ray ({answer.name})")


def _use_own_token() -> bool:
    """Uses this host's token, as `ray.init()` without an address does, unless the environment sets a mode.

    Ray may leave a token in the home, which the next `ray start --head` then requires.
    """
    if AUTH_MODE_ENV_VAR in os.environ:
        return False
    if not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        return False
    _enable_token_auth()
    return True


def _wait_for_nodes(address: str) -> None:
    """Waits, on the head of a cluster that `ray up` started, for nodes that have not joined yet."""
    try:
        launched = yaml.safe_load((Path.home() / "ray_bootstrap_config.yaml").read_text())
        head = launched["provider"].get("head_ip", host_of(read_ray_address() or ""))
        if not is_same_host(head, host_of(address)):
            return  # the file belongs to another cluster
        wanted = 1 + sum(each.get("min_workers", 0) for each in launched["available_node_types"].values())
    except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return
    give_up_at = time.monotonic() + JOIN_TIMEOUT_S
    reported = 0
    while (there := sum(node["Alive"] for node in ray.nodes())) < wanted and time.monotonic() < give_up_at:
        if there != reported:
            print(f"waiting for hosts to join: {there} of {wanted} are there", file=sys.stderr)
            reported = there
        time.sleep(1)
    if there < wanted:
        print(f"going on with {there} of {wanted} after {JOIN_TIMEOUT_S:.0f} s", file=sys.stderr)


def _init(**settings: Any) -> None:
    # An interrupt raised while Ray forks its processes would be lost. This also restores the handler of
    # SIGTERM, which Ray replaces.
    with noted_interrupts() as interrupted:
        ray.init(log_to_driver=False, logging_level="ERROR", **settings)
    if interrupted.is_set():
        raise KeyboardInterrupt


def _check_cluster_has(resource: str, workers: int) -> None:
    there = int(ray.cluster_resources().get(resource, 0))
    if workers > there:
        raise InvalidValue(
            "workers", workers, f"each takes a {resource} and the cluster has {there}; ask for fewer"
        )
    give_up_at = time.monotonic() + FREE_TIMEOUT_S
    while (free := int(ray.available_resources().get(resource, 0))) < workers:
        if time.monotonic() > give_up_at:
            raise InvalidValue(
                "workers",
                workers,
                f"each takes a {resource} and {free} of the cluster's {there} are free; ask for fewer or "
                "wait for other jobs to end",
            )
        time.sleep(0.5)


def _check_gpus_are_beside_cpus(workers: int) -> None:
    """A worker needs its CPU and its GPU on one host, which their sums over the cluster do not tell."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = sum(int(min(each.get("CPU", 0), each.get("GPU", 0))) for each in resources)
    if workers > places:
        raise InvalidValue(
            "workers",
            workers,
            f"each takes a CPU and a GPU of one host and the cluster has {places} such pairs; ask for fewer",
        )

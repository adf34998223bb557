"""Ray on the hosts of a lab: a head on the first host and a node on each other host."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

from distsqz.errors import RunError
from distsqz.lab.lab import Lab
from distsqz.lab.state import Host

PORT = 6379
START_TIMEOUT_S = 60.0
RESOURCES = "RAY_OVERRIDE_RESOURCES"
OBJECT_STORE_BYTES = 200 << 20
"""Size of each node's object store. Plans and records pass through it, gradients do not."""


def start_ray(lab: Lab, cpus_per_host: int | None = None) -> dict[str, str]:
    """Starts Ray on every host of a lab, and returns the environment variables to join it.

    Args:
        lab: a lab that is up.
        cpus_per_host: CPUs of each host that Ray may allocate, by default the host's cores.

    Raises:
        RunError: Ray does not start on a host.
    """
    token = lab.state.directory / "ray_token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    head, *others = lab.hosts
    address = f"{head.address}:{PORT}"
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "HOME": str(Path.home()),  # where data sets may be cached
        "RAY_USAGE_STATS_ENABLED": "0",
        # A host that is disconnected for some minutes must not count as dead.
        "RAY_health_check_failure_threshold": "100",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        # Workers have an environment of their own; they cannot use processes that Ray starts in advance.
        "RAY_prestart_worker_first_driver": "0",
    }
    own = variables if cpus_per_host is None else {**variables, RESOURCES: f'{{"CPU": {cpus_per_host}}}'}
    nodes = [_Node(lab, head, ["--head", f"--port={PORT}", "--include-dashboard=false"], own)]
    nodes += [_Node(lab, host, [f"--address={address}"], own) for host in others]
    for node in nodes:
        node.wait()
    return {**variables, "RAY_ADDRESS": address}


class _Node:
    """`ray start` on one host."""

    def __init__(self, lab: Lab, host: Host, options: list[str], variables: dict[str, str]) -> None:
        self._host = host
        self._log = lab.state.directory / f"ray-{host.name}.log"
        command = [
            *("env", *(f"{name}={value}" for name, value in variables.items())),
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"),
            *(f"--node-ip-address={host.address}", f"--object-store-memory={OBJECT_STORE_BYTES}", *options),
        ]
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                lab.inside(host, command), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def wait(self) -> None:
        """Returns when the node is up."""
        try:
            status = self._process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = -1
        if status != 0:
            lines = [line for line in self._log.read_text().splitlines() if line.strip()]
            raise RunError(
                f"Ray does not start ({lines[-1] if lines else 'no output'})", host=self._host.name
            )

"""Hosts answer over SSH: to the lab's own key, on the lab's own addresses, and to nobody else."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest
from labs import ROOT, Commands, lab_up, namespaces, need_sshd, networks_of, wait_until

from distsqz.lab import ssh
from distsqz.metering.wire import LAB_VARIABLE

TCP_TABLES = ("sh", "-c", "cat /proc/net/tcp*")
"""Prints the kernel's tables of TCP sockets: IPv4's, and IPv6's where the kernel has it."""


def test_a_command_runs_over_ssh(with_ssh: Commands) -> None:
    assert with_ssh.do("ssh", "h2", then=["hostname"]) == "h2\n"
    assert with_ssh("ssh", "h1", then=["exit", "7"]).status == 7


def test_hosts_reach_each_other_over_ssh(with_ssh: Commands) -> None:
    state = with_ssh.state
    assert with_ssh.on("h1", *ssh.command(state, state.host("h2")), "hostname") == "h2"


def test_a_session_stands_on_the_host_as_run_does(with_ssh: Commands) -> None:
    said = with_ssh.do("ssh", "h2", then=["env; pwd; cat /proc/self/status"])
    variables = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    assert variables[LAB_VARIABLE] == str(with_ssh.directory / "lab.json")
    host = with_ssh.state.host("h2")
    assert json.loads(variables["RAY_OVERRIDE_RESOURCES"]) == {"CPU": 1, "memory": host.memory_bytes}
    assert variables["HOME"] == "/tmp/ray/home"
    assert f"Cpus_allowed_list:\t{host.cores[0]}" in said.splitlines()


def test_the_lab_directory_and_its_keys_are_its_owner_s_alone(with_ssh: Commands) -> None:
    assert with_ssh.directory.stat().st_mode & 0o777 == 0o700
    for name in ("ssh_key", "host_key"):
        assert (with_ssh.directory / name).stat().st_mode & 0o777 == 0o600


def test_another_key_is_refused(with_ssh: Commands, tmp_path: Path) -> None:
    other = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    refused = ssh_with(with_ssh, "-i", str(other))
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr


@pytest.mark.parametrize("method", ["password", "keyboard-interactive", "none"])
def test_no_way_in_but_the_key(with_ssh: Commands, method: str) -> None:
    refused = ssh_with(with_ssh, "-o", f"PreferredAuthentications={method}", "-o", "PubkeyAuthentication=no")
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr


def test_sshd_listens_on_the_hosts_own_addresses_only(with_ssh: Commands) -> None:
    for name, row in with_ssh.status().items():
        table = with_ssh.on(name, *TCP_TABLES)
        assert listening(table) == {(row["address"], 22)}


def test_nothing_of_a_lab_stands_in_the_machine_s_network(with_ssh: Commands) -> None:
    networks = networks_of(with_ssh.directory)
    assert len(networks) >= 8  # each of three holders and the `unshare` above it, and two sshd
    assert namespaces("self")["net"] not in networks.values()


def test_a_host_s_sshd_is_started_again_when_it_ends(with_ssh: Commands) -> None:
    with_ssh.on("h1", "pkill", "-x", "sshd")
    address = with_ssh.status()["h1"]["address"]

    def answers() -> bool:
        try:
            with socket.create_connection((address, 22), 1) as connection:
                return connection.recv(3) == b"SSH"
        except OSError:
            return False

    assert wait_until(answers, 30)


def test_keys_stay_when_a_lab_is_mended(with_ssh: Commands) -> None:
    before = (with_ssh.directory / "ssh_key").read_bytes()
    with_ssh.up(2, with_ssh=True)
    assert (with_ssh.directory / "ssh_key").read_bytes() == before


def test_a_lab_without_ssh_has_no_sshd_and_no_way_in() -> None:
    need_sshd()
    with lab_up() as here:
        assert not Path(f"/sys/class/net/dsq-{here.name}").exists()
        assert listening(here.on("h1", *TCP_TABLES)) == set()
        refused = here("ssh", "h1", then=["hostname"])
        assert refused.status == 2
        assert refused.stderr.startswith("error: ssh: the lab has no sshd")


def ssh_with(here: Commands, *options: str) -> subprocess.CompletedProcess[str]:
    """SSH to h1 without the lab's key."""
    known = f"UserKnownHostsFile={here.directory / 'known_hosts'}"
    command = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", known, *options]
    return subprocess.run(
        [*command, f"root@{here.status()['h1']['address']}", "hostname"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def listening(table: str) -> set[tuple[str, int]]:
    """Addresses and ports of sockets that listen, from /proc/net/tcp and tcp6."""
    found = set()
    for line in table.splitlines():
        words = line.split()
        if len(words) > 3 and words[3] == "0A":
            address, port = words[1].split(":")
            raw = bytes.fromhex(address)
            found.add((socket.inet_ntoa(raw[::-1]) if len(raw) == 4 else raw.hex(), int(port, 16)))
    return found

"""SSH servers on the hosts of a lab, with keys made for this lab only."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from pathlib import Path

from distsqz.errors import RequestError
from distsqz.lab.processes import variables
from distsqz.lab.state import Host, LabState

RAY_TOKEN = Path.home() / ".ray" / "auth_token"
SSHD = Path("/usr/sbin/sshd")


def check_sshd() -> None:
    """Raises RequestError if OpenSSH's server or key generator is not installed."""
    if not SSHD.exists() or not shutil.which("ssh-keygen"):
        raise RequestError(
            "sshd is missing; `apt-get install openssh-server` brings it, `ssh=False` does without"
        )


def prepare(state: LabState) -> None:
    """Creates the lab's keys, unless they exist, and the SSH configuration of each host."""
    for name in ("ssh_key", "host_key"):
        if not (state.directory / name).exists():
            subprocess.run(
                ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", state.directory / name),
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,  # after an interrupt its directory may be gone, and it would say so
            )
    public = (state.directory / "host_key.pub").read_text()
    known = "".join(f"{host.address} {public}" for host in state.hosts)
    (state.directory / "known_hosts").write_text(known)
    for host in state.hosts:
        (state.directory / f"sshd-{host.name}").write_text(_configuration(state, host))


def make_ray_token(state: LabState) -> None:
    """Creates Ray's token in this user's home, unless there is one. cluster.yaml copies it to the hosts."""
    if not RAY_TOKEN.exists():
        RAY_TOKEN.parent.mkdir(exist_ok=True)
        for path in (state.directory / RAY_TOKEN.name, RAY_TOKEN):
            path.touch(mode=0o600)
        token = secrets.token_hex(32)
        (state.directory / RAY_TOKEN.name).write_text(token)  # identifies the token when the lab is removed
        RAY_TOKEN.write_text(token)


def remove_ray_token(directory: Path) -> None:
    """Removes Ray's token if the lab in `directory` created it; Ray behaves differently without one."""
    made = directory / RAY_TOKEN.name
    if made.exists() and RAY_TOKEN.exists() and made.read_text() == RAY_TOKEN.read_text():
        RAY_TOKEN.unlink()


def command(state: LabState, host: Host) -> list[str]:
    """Command line that opens an SSH session on a host."""
    return [
        *("ssh", "-i", str(state.directory / "ssh_key"), "-o", "IdentitiesOnly=yes"),
        *("-o", f"UserKnownHostsFile={state.directory / 'known_hosts'}", f"root@{host.address}"),
    ]


def _configuration(state: LabState, host: Host) -> str:
    # A value in double quotes needs a backslash before every double quote in it.
    environment = " ".join(json.dumps(f"{name}={value}") for name, value in variables(state, host).items())
    return "\n".join(
        [
            f"ListenAddress {host.address}",
            f"HostKey {state.directory / 'host_key'}",
            f"AuthorizedKeysFile {state.directory / 'ssh_key.pub'}",
            "AuthenticationMethods publickey",
            "PermitRootLogin prohibit-password",
            "StrictModes no",  # the lab's directory belongs to root, but sshd may refuse the mode of /run
            "UsePAM no",
            "PidFile none",
            "PrintMotd no",
            "MaxStartups 100",
            f"SetEnv {environment}",
            "",
        ]
    )

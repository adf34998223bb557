"""What every command shares: standard streams that are closed, full, or read by nobody any more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import sys
from dataclasses import dataclass
from distsqz.cli.command import run_command
from distsqz.errors import RequestError, RunError

@dataclass(frozen=True)
class Options:
    lines: int = 0
    warnings: int = 0
    error: str = ""
    child: bool = False
    debug: bool = False

def main(options):
    for _ in range(options.lines):
        print("x" * 100)
    for _ in range(options.warnings):
        print("w" * 100, file=sys.stderr)
    if options.child:
        import subprocess
        sys.exit(subprocess.run(["echo", "from a child"]).returncode)
    if options.error:
        raise {"request": RequestError, "run": RunError, "pipe": BrokenPipeError}[options.error]("no good")

run_command(main, Options, "A command.")
"""


def in_a_shell(tmp_path: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash in which `$COMMAND` is the command; the status is that of the command."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        env={
            "COMMAND": f"{sys.executable} {script}",
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "line",
    [
        "$COMMAND --lines 1 >&-",
        "$COMMAND --lines 100000 >&-",
        "$COMMAND --lines 1 --warnings 1 >&- 2>&-",
        "$COMMAND --warnings 1 2>&-",
        "$COMMAND --lines 1 <&- >&- 2>&-",
        "$COMMAND --help >&-",
        "$COMMAND --child >&-",
        "$COMMAND --lines 100000 | head -0",
        "$COMMAND --lines 1 | (exec <&-; sleep 0.5)",
        "$COMMAND --help | (exec <&-; sleep 0.5)",
        "$COMMAND --lines 100000 --warnings 100000 2>&1 | head -0",
    ],
)
def test_output_that_nobody_reads_is_no_error(tmp_path: Path, line: str) -> None:
    done = in_a_shell(tmp_path, line)
    assert (done.returncode, done.stdout, done.stderr.replace("w", "").strip()) == (0, "", "")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("$COMMAND --error request 2>&-", 2),
        ("$COMMAND --error run 2>&-", 1),
        ("$COMMAND --nonsense 2>&-", 2),
        ("$COMMAND --error request 2> >(exec <&-)", 2),
        ("$COMMAND --error request --debug >&- 2>&-", 2),
        ("$COMMAND --warnings 100000 2> >(head -0)", 1),
    ],
)
def test_an_error_that_nobody_reads_keeps_its_status_and_does_not_go_to_stdout(
    tmp_path: Path, line: str, status: int
) -> None:
    done = in_a_shell(tmp_path, line)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_full_disk_is_told_in_one_line(tmp_path: Path, lines: int) -> None:
    done = in_a_shell(tmp_path, f"$COMMAND --lines {lines} > /dev/full")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line


def test_a_pipe_that_breaks_elsewhere_is_not_taken_for_the_reader_s_leave(tmp_path: Path) -> None:
    done = in_a_shell(tmp_path, "$COMMAND --error pipe | cat")
    assert done.returncode == 1
    assert done.stderr == "error: BrokenPipeError: no good (--debug shows where)\n"

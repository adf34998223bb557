"""The command `distsqz`: subcommands, what an import costs, what an installation may lack."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from distsqz import open_run
from distsqz.cli import main
from distsqz.cli.extras import EXTRAS, missing_extra
from distsqz.cli.subcommands import SUBCOMMANDS

ROOT = Path(__file__).parents[2]


def python(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def distsqz(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from distsqz.cli.main import main; main()", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_importing_distsqz_loads_nothing_heavy() -> None:
    heavy = python("import sys, distsqz; print(*({'torch', 'ray', 'pandas', 'numpy'} & set(sys.modules)))")
    assert (heavy.returncode, heavy.stdout.strip()) == (0, ""), heavy.stderr


def test_every_subcommand_is_a_module_with_a_line_of_help() -> None:
    listed = distsqz("--help").stdout
    for name, line in SUBCOMMANDS.items():
        assert (ROOT / "distsqz" / "cli" / f"{name}.py").is_file()
        assert f"{name} " in listed
        assert line in listed


def test_scripts_of_a_checkout_run_the_subcommand_of_their_name() -> None:
    for script in [*(ROOT / "launch").glob("*.py"), *(ROOT / "analysis").glob("*.py")]:
        assert script.stem in SUBCOMMANDS
        assert f'run("{script.stem}")' in script.read_text()


def test_an_unknown_subcommand_is_refused_with_what_was_meant() -> None:
    refused = distsqz("compar")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == ["error: compar: no subcommand of distsqz; did you mean compare?"]


def test_python_runs_the_package_as_the_command() -> None:
    ended = subprocess.run([sys.executable, "-m", "distsqz", "--version"], capture_output=True, check=True)
    assert ended.stdout.decode().startswith("distsqz ")


def test_the_version_is_that_of_pyproject() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert distsqz("--version").stdout == f"distsqz {version}\n"


@pytest.mark.parametrize(("extra", "words"), [("ray", ["ddp"]), ("weights", ["compress", "x.pth"])])
def test_a_missing_extra_is_one_line_that_names_it(
    extra: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(module: str) -> object:
        raise ModuleNotFoundError(f"No module named {module!r}", name=EXTRAS[extra][0])

    monkeypatch.setattr(main.importlib, "import_module", without)
    with pytest.raises(SystemExit) as stop:
        main.run(words[0], words[1:])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pip install 'distsqz[{extra}]'" in line


def test_the_extras_are_those_of_pyproject() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) | {"all", "docs", "test"} == set(extras)


def test_a_failed_import_of_anything_else_is_no_missing_extra() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    assert missing_extra(ValueError("no import")) is None


def test_open_run_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"run\.json"):
        open_run(tmp_path)


@pytest.mark.parametrize("command", ["ddp", "ps", "compare"])
def test_a_command_line_is_read_before_torch_ray_or_pandas_are_loaded(command: str) -> None:
    parsed = f"from distsqz.cli import {command}; parse({command}.Options, '', [])"
    loaded = "import sys; print(*({'torch', 'ray', 'pandas'} & set(sys.modules)))"
    done = python(f"from distsqz.cli.command import parse; {parsed}; {loaded}")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr

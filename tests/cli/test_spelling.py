"""Only the command knows how an option is spelled; what other rooms raise is translated for its user."""

import ast
import importlib
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import tyro
from tyro.conf import OmitArgPrefixes, Positional, subcommand

import distsqz
from distsqz.cli.command import run_command
from distsqz.cli.spelling import option_spellings, spell
from distsqz.cli.subcommands import SUBCOMMANDS
from distsqz.errors import InvalidValue, RequestError, RunError, renamed_fields, require_at_least

PACKAGE = Path(distsqz.__file__).parent
ROOMS = (
    "errors.py",
    "models",
    "data",
    "weights",
    "lab",
    "shipping",
    "strategies",
    "theory",
    "cluster",
    "training",
    "runs",
    "metering",
    "report",
)
"""Where no option may be spelled."""
OTHERS_OPTIONS = {("lab/ray_nodes.py", "--address")}
"""Options of other programs that share a name with one of ours."""


@dataclass(frozen=True, kw_only=True)
class Inner:
    batch_size: int = 1
    metered: bool = True


@dataclass(frozen=True, kw_only=True)
class Options:
    checkpoint: Annotated[Positional[Path], tyro.conf.arg(metavar="CHECKPOINT [...]")]
    inner: OmitArgPrefixes[Inner] = field(default_factory=Inner)
    workers: int = 2
    debug: bool = False


@dataclass(frozen=True, kw_only=True)
class Other:
    host: Positional[str]


def test_an_option_is_spelled_with_hyphens_and_a_positional_argument_by_its_placeholder() -> None:
    assert option_spellings(Options) == {
        "checkpoint": "CHECKPOINT",
        "batch_size": "--batch-size",
        "metered": "--metered",
        "workers": "--workers",
        "debug": "--debug",
    }


def test_the_options_of_all_subcommands_are_known() -> None:
    union = Annotated[Options, subcommand("one")] | Annotated[Other, subcommand("two")]
    assert option_spellings(union) == {**option_spellings(Options), "host": "host"}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidValue("batch_size", 0, "must be at least 1"), "--batch-size 0: must be at least 1"),
        (InvalidValue("checkpoint", "a.pth", "is empty"), "CHECKPOINT a.pth: is empty"),
        (InvalidValue("workers", None, "none given"), "--workers: none given"),
        (InvalidValue("layers", 3, "are too few"), "layers 3: are too few"),
        (RequestError("too many; ask for fewer `workers`"), "too many; ask for fewer --workers"),
        (RequestError("--workers 9: as before"), "--workers 9: as before"),
        (RunError("try `batch_size=4` or `metered=False`"), "try --batch-size 4 or --no-metered"),
        (RunError("`ray start --head` or `layers`"), "`ray start --head` or `layers`"),
    ],
)
def test_fields_of_an_error_become_options_of_the_command(error: Exception, line: str) -> None:
    assert spell(error, Options) == line


def test_a_field_of_one_model_is_the_option_that_names_several() -> None:
    @dataclass(frozen=True)
    class Several:
        models: tuple[str, ...] = ()

    assert spell(InvalidValue("model", "resnet", "unknown"), Several) == "--models resnet: unknown"


def test_a_command_prints_its_own_spelling_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main(options: Options) -> None:
        require_at_least(options.inner, {"batch_size": 1})

    with pytest.raises(SystemExit) as left:
        run_command(main, Options, "Test.", ["a.pth", "--batch-size", "0"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: --batch-size 0: must be at least 1\n"


def test_a_library_caller_reads_the_name_of_the_parameter() -> None:
    assert str(InvalidValue("batch_size", 0, "must be at least 1")) == "batch_size 0: must be at least 1"
    assert str(InvalidValue("servers", None, "too many")) == "servers: too many"


def test_an_invalid_value_survives_being_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(InvalidValue("batch_size", 0, "must be at least 1")))
    assert (error.field, error.value, error.reason) == ("batch_size", 0, "must be at least 1")


def test_a_caller_gives_a_field_the_name_that_it_has_there() -> None:
    with pytest.raises(InvalidValue, match=r"^head_rate fast: unknown$"), renamed_fields(rate="head_rate"):
        raise InvalidValue("rate", "fast", "unknown")
    with pytest.raises(InvalidValue, match=r"^hosts 0: too few$"), renamed_fields(rate="head_rate"):
        raise InvalidValue("hosts", 0, "too few")


@pytest.mark.parametrize("room", ROOMS)
def test_no_option_is_spelled_outside_of_the_command(room: str) -> None:
    options = set(_options_of_all_commands())
    assert {"--batch-size", "--no-ssh", "--rate"} <= options
    assert not [
        f"{path}:{line}: {option}"
        for path, line, text in _texts(PACKAGE / room)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)
        if option in options and (path, option) not in OTHERS_OPTIONS
    ]


def _options_of_all_commands() -> Iterator[str]:
    for name in SUBCOMMANDS:
        module = importlib.import_module(f"distsqz.cli.{name}")
        for option in option_spellings(getattr(module, "Options", None) or module.Command).values():
            yield option
            yield option.replace("--", "--no-", 1)


def _texts(place: Path) -> Iterator[tuple[str, int, str]]:
    """Path, line and content of every string in a file or in the files of a folder."""
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield str(path.relative_to(PACKAGE)), node.lineno, node.value

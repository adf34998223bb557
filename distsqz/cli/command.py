"""Shared by all commands: options from a dataclass, errors in one line, exit status.

Exit status: 0 done, 1 the run failed, 2 the request was invalid, 130 interrupted.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TextIO, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from distsqz.cli.extras import advice, missing_extra
from distsqz.cli.parse_errors import line_of
from distsqz.cli.spelling import spell
from distsqz.errors import RequestError, RunError

DONE, RUN_FAILED, BAD_REQUEST, INTERRUPTED = 0, 1, 2, 130


class HasDebug(Protocol):
    """Options of a command: any dataclass with a `debug` switch."""

    @property
    def debug(self) -> bool:
        """On an error, print Python's traceback as well as the message."""


Options = TypeVar("Options", bound=HasDebug)


def run_command(
    main: Callable[[Options], None],
    options_type: type[Options],
    description: str,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parses arguments, calls `main` with the options and exits with the right status after a failure.

    SIGTERM is treated like Ctrl-C: both reach `main` as KeyboardInterrupt. A closed stdout, or a reader that
    ends early (`| head`), is no error.

    Args:
        main: the command.
        options_type: dataclass of its options.
        description: first line of --help.
        arguments: command line, by default that of this process.
        prog: name of the command in --help, by default that of the script.
    """
    _replace_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ASCII_FALLBACK)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell makes background jobs ignore SIGINT
        signal.signal(number, _interrupt)
    options = None
    try:
        options = parse(options_type, description, arguments, prog)
        main(options)
        sys.stdout.flush()
    except SystemExit:  # --help, or the exit status of a command that this one ran
        _flush(sys.stdout)
        raise
    except KeyboardInterrupt:
        _print_error("interrupted", options)
        _leave(INTERRUPTED)
    except RequestError as error:
        _print_error(f"error: {spell(error, options_type if options is None else type(options))}", options)
        sys.exit(BAD_REQUEST)
    except RunError as error:
        _print_error(f"error: {spell(error, options_type if options is None else type(options))}", options)
        _leave(RUN_FAILED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left(sys.stdout):
            _flush(sys.stdout)
            return
        if isinstance(error, ImportError) and (extra := missing_extra(error)):
            _print_error(f"error: {advice(extra)}", options)
            sys.exit(BAD_REQUEST)
        reason = (str(error).splitlines() or [""])[0]
        _print_error(f"error: {type(error).__name__}: {reason} (--debug shows where)", options)
        _leave(RUN_FAILED)


def _leave(status: int) -> None:
    """Exits with a status; at once if Ray was loaded, whose interrupted threads can crash Python's shutdown.

    All results are on disk by now, and Ray has been shut down.
    """
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    if "ray" in sys.modules:
        os._exit(status)
    sys.exit(status)


def _replace_closed_streams() -> None:
    """Opens /dev/null for closed standard streams (`>&-`), so that no other file gets their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replaces characters that a stream's encoding lacks: lines and dashes by hyphens, others by escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].replace("─", "-").replace("–", "-")  # noqa: RUF001
    return text.encode("ascii", "backslashreplace").decode(), error.end


ASCII_FALLBACK = "distsqz.ascii"
codecs.register_error(ASCII_FALLBACK, _in_ascii)


def _flush(stream: TextIO) -> None:
    """Flushes a stream, or discards its content if that fails: Python would report the failure at exit."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _reader_has_left(stream: TextIO) -> bool:
    """Whether a stream is a pipe, a socket or a terminal whose other end is closed."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def parse(
    options_type: type[Options],
    description: str,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> Options:
    """Parses a command line, by default that of this process.

    Raises:
        RequestError: it is not valid.
    """
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                options_type,
                prog=prog,
                description=description,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
                registry=_REGISTRY,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise RequestError(line_of(_first_section(messages.getvalue()), options_type)) from None


_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _path_rule(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """Parses options that are paths. `~` is expanded, which a shell does not do in `--runs=~/x`."""
    if type_info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: Path(os.path.expanduser(words[0])),  # noqa: PTH111 - Path's own raises
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def _first_section(box: str) -> str:
    """The first section of a message in a box, in one line, with the suggestion for a misspelt option.

    The box consists of lines, or of ASCII characters on terminals without Unicode.
    """
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    rules = [index for index, line in enumerate(lines) if line.startswith(("─", "╰", "---"))]
    if rules and rules[0] == 0:
        lines, rules = lines[1:], [index - 1 for index in rules[1:]]
    if not rules:
        return " ".join(box.split())
    message = " ".join(lines[: rules[0]])
    advice = lines[rules[0] + 1 : rules[0] + 3]
    if advice and advice[0].startswith("Perhaps you meant"):
        message += f" (perhaps you meant {advice[1]})"
    return message


def _print_error(line: str, options: HasDebug | None) -> None:
    with contextlib.suppress(OSError):  # stderr may be closed
        if options is not None and options.debug:
            traceback.print_exc()
        print(line, file=sys.stderr)
    _flush(sys.stderr)


def _interrupt(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt

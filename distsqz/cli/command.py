"""What every command shares: options from a dataclass, one line for an error, the exit status.

0 done, 1 the run failed, 2 the request was wrong, 130 interrupted.
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
from distsqz.cli.spelling import spell
from distsqz.errors import RequestError, RunError

DONE, RUN_FAILED, BAD_REQUEST, INTERRUPTED = 0, 1, 2, 130


class HasDebug(Protocol):
    """Options of a command: any dataclass with a `debug` switch."""

    @property
    def debug(self) -> bool:
        """Print tracebacks."""


Options = TypeVar("Options", bound=HasDebug)


def run_command(
    main: Callable[[Options], None],
    options_type: type[Options],
    description: str,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parses `arguments` into `options_type`, calls `main` and exits with the right status.

    SIGTERM is treated as Ctrl-C: both reach `main` as KeyboardInterrupt. Output that nobody reads is no
    error: stdout may be closed, or its reader may leave early (`| head`).
    """
    _replace_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ASCII_FALLBACK)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell lets its jobs in the background ignore SIGINT
        signal.signal(number, _interrupt)
    options = None
    try:
        options = parse(options_type, description, arguments, prog)
        main(options)
        sys.stdout.flush()
    except SystemExit:  # --help, or the status of a command that this one has run
        _flush(sys.stdout)
        raise
    except KeyboardInterrupt:
        _say("interrupted", options)
        _leave(INTERRUPTED)
    except RequestError as error:
        _say(f"error: {spell(error, options_type if options is None else type(options))}", options)
        sys.exit(BAD_REQUEST)
    except RunError as error:
        _say(f"error: {spell(error, options_type if options is None else type(options))}", options)
        _leave(RUN_FAILED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left(sys.stdout):
            _flush(sys.stdout)
            return
        if isinstance(error, ImportError) and (extra := missing_extra(error)):
            _say(f"error: {advice(extra)}", options)
            sys.exit(BAD_REQUEST)
        reason = (str(error).splitlines() or [""])[0]
        _say(f"error: {type(error).__name__}: {reason} (--debug shows where)", options)
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
    """Puts /dev/null where a standard stream was closed (`>&-`), so that no other file gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replaces characters that a stream's encoding lacks: lines and dashes look alike, others are escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].replace("─", "-").replace("–", "-")  # noqa: RUF001
    return text.encode("ascii", "backslashreplace").decode(), error.end


ASCII_FALLBACK = "distsqz.ascii"
codecs.register_error(ASCII_FALLBACK, _in_ascii)


def _flush(stream: TextIO) -> None:
    """Writes out what is left in a stream, or discards it: at exit, Python would complain of a failure."""
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
    """The arguments, by default those of this process, as an `options_type`.

    Raises:
        RequestError: it does not parse.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
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
        raise RequestError(_first_section(said.getvalue())) from None


_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _path_rule(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """Reads an option that is a path; `~` is the home also where a shell leaves it alone (`--runs=~/x`)."""
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
    """The first section of a message in a box, as one line; its advice on a misspelt option is kept.

    The box is drawn, or in ASCII where the terminal has no other letters.
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
    return f"{message}; --help lists the options"


def _say(line: str, options: HasDebug | None) -> None:
    with contextlib.suppress(OSError):  # there is no one to tell
        if options is not None and options.debug:
            traceback.print_exc()
        print(line, file=sys.stderr)
    _flush(sys.stderr)


def _interrupt(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt

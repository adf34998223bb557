"""Files that are sent for the models of a request, each with its hash.

A registered model and a torch checkpoint are sent as their weights in safetensors: a header that names the
tensors, then their bytes. The receiver unpickles nothing. Any other file is sent unchanged.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import safetensors.torch
import torch
from torch import Tensor

from distsqz.errors import InvalidValue, renamed_fields
from distsqz.models.registry import MODELS, ModelOptions, build_model
from distsqz.models.weights import read_weights
from distsqz.shipping.update import size_and_sha256, write_update

CHECKPOINTS = (".pt", ".pth")
CLASSES, SEED = 1000, 0
"""Classes and seed of registered models. They are freshly initialised and have as many bytes as trained
ones."""
BETWEEN = ".."

Form = Literal["weights", "file", "update"]


@dataclass(frozen=True, kw_only=True)
class ShippedFile:
    """A file to send."""

    name: str
    """The model or file as the request names it."""
    form: Form
    """weights: tensors in safetensors; file: the requested file unchanged; update: the difference of two
    files."""
    file: BinaryIO
    size_bytes: int
    sha256: bytes
    base_sha256: bytes | None = None
    """SHA-256 of the file that a client must hold to apply the update; None if this is no update."""
    result_sha256: bytes | None = None
    """SHA-256 of the file that the update produces; None if this is no update."""


@dataclass(frozen=True)
class ModelRequest:
    """One model or file of a request."""

    name: str
    """The model or file as the request names it."""
    base: str | None
    """Path of the old file if an update is requested."""
    model: str
    """Name of a registered model, or a path; for an update the path of the new file."""


def parse_models(names: Sequence[str]) -> list[ModelRequest]:
    """Checks the names in a request: registered models, files, or OLD..NEW for an update.

    Raises:
        InvalidValue: a name occurs twice, or there is no such model or file.
    """
    if len(set(names)) < len(names):
        raise InvalidValue("models", " ".join(names), "name each once")
    return [_parse(name) for name in names]


@contextlib.contextmanager
def open_files(requests: Sequence[ModelRequest]) -> Iterator[list[ShippedFile]]:
    """Opens or creates the files to send, in the requested order.

    The base of an update comes before it, unless clients already hold the base by then. Files that are
    created have no name and disappear when they are closed.

    Raises:
        InvalidValue: a file cannot be read, or two files have different sizes, so that no update exists.
    """
    with contextlib.ExitStack() as files:
        shipped_files: list[ShippedFile] = []
        held: set[bytes | None] = set()
        for each in requests:
            if each.base is None and each.model in {shipped.name for shipped in shipped_files}:
                continue  # was already sent as a base
            whole = files.enter_context(_whole(each.base or each.model))
            if each.base is None or whole.sha256 not in held:
                shipped_files.append(whole)
            if each.base is not None:
                new = files.enter_context(_whole(each.model))
                shipped_files.append(files.enter_context(_update(each, whole, new)))
            held |= {
                sha256 for shipped in shipped_files for sha256 in (shipped.sha256, shipped.result_sha256)
            }
        yield shipped_files


def _parse(name: str) -> ModelRequest:
    try:
        name.encode()  # the run's tables need it
    except UnicodeEncodeError as error:
        raise InvalidValue("models", repr(name), "the name is not UTF-8; rename the file") from error
    if name in MODELS:
        return ModelRequest(name, None, name)
    name = _expanded(name)
    if Path(name).is_file():
        _check_readable(name)
        return ModelRequest(name, None, name)
    for end in range(1, len(name) - len(BETWEEN)):
        if name[end:].startswith(BETWEEN) and Path(name[:end]).is_file():
            old, new = name[:end], _expanded(name[end + len(BETWEEN) :])
            if not Path(new).is_file():
                raise InvalidValue("models", name, f"there is no file {new}")
            for path in (old, new):
                _check_readable(path)
            return ModelRequest(name, old, new)
    raise InvalidValue(
        "models", name, f"neither a file, nor OLD{BETWEEN}NEW of two files, nor one of {', '.join(MODELS)}"
    )


def _expanded(path: str) -> str:
    return os.path.expanduser(path)  # noqa: PTH111 - Path's own raises, and drops what it finds superfluous


def _check_readable(path: str) -> None:
    try:
        with Path(path).open("rb") as file:
            if not file.read(1):
                raise InvalidValue("models", path, "is empty")
    except OSError as error:
        raise InvalidValue("models", path, f"cannot be read ({error.strerror})") from error


@contextlib.contextmanager
def _whole(model: str) -> Iterator[ShippedFile]:
    """Opens the weights of a model or checkpoint, or a file as it is."""
    form: Form = "weights"
    if model in MODELS:
        torch.manual_seed(SEED)
        file = _in_a_file(build_model(ModelOptions(model=model), CLASSES).state_dict())
    elif Path(model).suffix in CHECKPOINTS:
        with renamed_fields(checkpoint="models"):
            file = _in_a_file(read_weights(Path(model)))
    else:
        form, file = "file", Path(model).open("rb")  # noqa: SIM115 - closed below
    with file:
        size, sha256 = size_and_sha256(file)
        yield ShippedFile(name=model, form=form, file=file, size_bytes=size, sha256=sha256)


def _in_a_file(state: Mapping[str, Tensor]) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    # copies, because safetensors refuses tensors that share memory
    file.write(safetensors.torch.save({name: tensor.clone().contiguous() for name, tensor in state.items()}))
    file.flush()
    return file


@contextlib.contextmanager
def _update(request: ModelRequest, old: ShippedFile, new: ShippedFile) -> Iterator[ShippedFile]:
    with tempfile.TemporaryFile() as file:
        try:
            write_update(old.file, new.file, file)
        except ValueError as error:
            raise InvalidValue(
                "models",
                request.name,
                f"an update takes two files of one size, these have {error}; send {request.model} whole",
            ) from error
        file.flush()
        size, sha256 = size_and_sha256(file)
        yield ShippedFile(
            name=request.name,
            form="update",
            file=file,
            size_bytes=size,
            sha256=sha256,
            base_sha256=old.sha256,
            result_sha256=new.sha256,
        )

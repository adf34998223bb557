"""Download of a gzipped file, which is verified against its published checksum."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from distsqz.data.split import SourceError

CHUNK_BYTES = 1 << 18
SILENCE_S = 30
"""Seconds without data after which a download fails."""


def download_gzip(url: str, destination: Path, contents_sha256: str) -> None:
    """Fetches `url` to `destination`, with a progress bar on stderr.

    The checksum is of the unpacked contents: distributions pack the same contents again.

    Raises:
        SourceError: the server cannot be reached or breaks off, what it sends has another checksum, or
            `destination` cannot be written. Nothing is left behind then.
    """
    try:
        with _part_of(destination) as (part_path, part):
            _stream(url, part, destination.name)
            part.flush()
            if _unpacked_sha256(part_path) != contents_sha256:
                raise SourceError(f"{url}: what came is not the published file (its checksum differs)")
            part_path.replace(destination)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SourceError(f"cannot download {url} to {destination.parent} ({error})") from error


@contextlib.contextmanager
def _part_of(destination: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A temporary file beside `destination`, unique because several ranks of a host may download at once."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.", suffix=".part")
    part_path = Path(name)
    try:
        with os.fdopen(handle, "wb") as part:
            yield part_path, part
    finally:
        part_path.unlink(missing_ok=True)


def _stream(url: str, into: BinaryIO, description: str) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        urllib.request.urlopen(url, timeout=SILENCE_S) as response,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        length_bytes = response.headers.get("Content-Length")
        task = progress.add_task(description, total=int(length_bytes) if length_bytes else None)
        while chunk := response.read(CHUNK_BYTES):
            into.write(chunk)
            progress.advance(task, len(chunk))


def _unpacked_sha256(path: Path) -> str | None:
    """Checksum of the unpacked content of a file; None if it cannot be unpacked."""
    try:
        with gzip.open(path) as contents:
            return hashlib.file_digest(contents, "sha256").hexdigest()
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return None

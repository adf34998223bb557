"""The .sqz archive: a compressed model as bytes; docs/sqz-format.md describes them.

Decodes on numpy alone, and unpickles nothing.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distsqz.models.preprocessing import Filter, Preprocessing, ResizeTo
from distsqz.weights.coder import LAST_TOKEN, SymbolStatistics, decode_symbols, encode_symbols
from distsqz.weights.errors import ArchiveError
from distsqz.weights.quantised import CompressedModel, ModelInfo, Quantised

MAGIC = b"SQZ"
VERSION = 2
OLDEST_VERSION = 1
"""Version 1 does not record how images are resized. It implies their shorter side, with a bilinear filter."""
RESIZE_TO: tuple[ResizeTo, ...] = ("shorter side", "square")
FILTERS: tuple[Filter, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Choices that the header stores by their index."""
MOST_WEIGHTS = 1 << 31
MOST_DIMENSIONS = 32
_WEIGHTS_A_BYTE = 1 << 15
"""Limit on the weights per byte. A byte holds at most 22,713 decisions, at the highest probability, 4095 in
4096."""
_FIXED_BYTES = len(MAGIC) + 1 + 4
_LEAST_BYTES = _FIXED_BYTES + 4
_HEADER_RATIO = 40
"""Limit on the compression ratio of a header, above 4 KiB. Headers written here stay below it."""


def encode(model: CompressedModel) -> bytes:
    """Encodes a model as an archive. The same model always has the same bytes.

    Raises:
        ValueError: a field that the format has no room for.
    """
    known, stream = encode_symbols([tensor.symbols for tensor in model.tensors.values()])
    try:
        header = _pack_header(model, known)
        _unpack_header(header, VERSION)  # refuses to write what cannot be read
    except (struct.error, OverflowError, ValueError, ArchiveError) as error:
        raise ValueError(f"the format has no room for a field of {model.info.name} ({error})") from error
    body = MAGIC + struct.pack("<BI", VERSION, len(header)) + header + stream
    return body + struct.pack("<I", zlib.crc32(body))


def decode(content: bytes, verify: bool = True) -> CompressedModel:
    """Decodes an archive; without `verify` its checksum is not checked.

    Raises:
        ArchiveError: these are not the bytes of a whole archive.
    """
    if not content.startswith(MAGIC):
        raise ArchiveError("is not an .sqz archive")
    if len(content) < _LEAST_BYTES:
        raise ArchiveError(f"is cut off: {len(content)} bytes")
    version = content[len(MAGIC)]
    if not OLDEST_VERSION <= version <= VERSION:
        raise ArchiveError(
            f"is of version {version} of the format, this program reads {OLDEST_VERSION} to {VERSION}"
        )
    body, checksum = content[:-4], struct.unpack("<I", content[-4:])[0]
    if verify and zlib.crc32(body) != checksum:
        raise ArchiveError("is damaged: its checksum is wrong")
    length = struct.unpack_from("<I", body, len(MAGIC) + 1)[0]
    header = _unpack_header(body[_FIXED_BYTES : _FIXED_BYTES + length], version)
    stream = memoryview(body)[_FIXED_BYTES + length :]
    weights = sum(math.prod(entry.shape) for entry in header.entries)
    if weights > _WEIGHTS_A_BYTE * len(stream):
        raise ArchiveError(f"is damaged: {len(stream)} bytes cannot hold the {weights:,} weights it claims")
    symbols = decode_symbols(
        stream,
        [entry.shape for entry in header.entries],
        [entry.known for entry in header.entries],
    )
    tensors = {
        entry.name: entry.quantised(values) for entry, values in zip(header.entries, symbols, strict=True)
    }
    return CompressedModel(header.info, tensors)


def write_archive(path: Path, model: CompressedModel) -> int:
    """Writes an archive atomically; returns its size in bytes."""
    content = encode(model)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return len(content)


def read_archive(path: Path) -> CompressedModel:
    """Reads and decodes the archive at `path`.

    Raises:
        ArchiveError: the file is not a whole archive.
        OSError: it cannot be read.
    """
    return decode(path.read_bytes())


@dataclass(frozen=True, eq=False)
class _Entry:
    name: str
    shape: tuple[int, ...]
    known: SymbolStatistics
    step: float
    codebook: Any
    zero: int

    def quantised(self, symbols: Any) -> Quantised:
        if self.codebook is not None and symbols.size:
            least, most = int(symbols.min()) + self.zero, int(symbols.max()) + self.zero
            if least < 0 or most >= len(self.codebook):
                raise ArchiveError(f"is damaged: {self.name} has values that are not in its codebook")
        return Quantised(symbols, self.step, self.codebook, self.zero)


@dataclass(frozen=True, eq=False)
class _Header:
    info: ModelInfo
    entries: Sequence[_Entry]


def _pack_header(model: CompressedModel, known: Sequence[SymbolStatistics]) -> bytes:
    info, images = model.info, model.info.preprocessing
    parts = [
        _text(info.name),
        _optional(info.squeeze_ratio),
        _optional(info.pct_3x3),
        struct.pack("<IB", info.num_classes, info.classifier_padding),
        struct.pack("<BHHd", images.channels == "BGR", images.resize, images.crop, images.scale),
        struct.pack("<6d", *images.mean, *images.std),
        struct.pack("<BB", RESIZE_TO.index(images.resize_to), FILTERS.index(images.filter)),
        struct.pack("<H", len(model.tensors)),
    ]
    # Similar fields stand together, so that deflate finds repetitions.
    tensors = list(model.tensors.values())
    parts += [_text(name) for name in model.tensors]
    parts += [struct.pack(f"<B{len(s)}I", len(s), *s) for s in (each.symbols.shape for each in tensors)]
    parts += [struct.pack("<BHB", each.density, each.scale, each.last_token) for each in known]
    for tensor in tensors:
        codebook = np.zeros(0) if tensor.codebook is None else tensor.codebook
        parts.append(struct.pack("<fII", tensor.step, len(codebook), tensor.zero))
        parts.append(codebook.astype("<f4").tobytes())
    return zlib.compress(b"".join(parts), 9)


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<B", len(content)) + content


def _optional(value: float | None) -> bytes:
    return struct.pack("<d", math.nan if value is None else value)


class _Fields:
    """Reads fields in order. Every length is checked before anything is allocated."""

    def __init__(self, content: bytes) -> None:
        self._content, self._next = content, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.bytes(struct.calcsize("<" + layout)))

    def bytes(self, count: int) -> bytes:
        piece = self._content[self._next : self._next + count]
        if len(piece) < count:
            raise ArchiveError("is damaged: its header ends too early")
        self._next += count
        return piece

    def text(self) -> str:
        (length,) = self.take("B")
        try:
            return self.bytes(length).decode()
        except UnicodeDecodeError:
            raise ArchiveError("is damaged: a name in its header is no text") from None

    def optional(self) -> float | None:
        (value,) = self.take("d")
        return None if math.isnan(value) else float(value)

    def resizing(self) -> tuple[ResizeTo, Filter]:
        resize_to, resampling = self.take("BB")
        if resize_to >= len(RESIZE_TO) or resampling >= len(FILTERS):
            raise ArchiveError("is damaged: it does not tell how images are resized")
        return RESIZE_TO[resize_to], FILTERS[resampling]

    def finish(self) -> None:
        if self._next != len(self._content):
            raise ArchiveError("is damaged: its header goes on too long")


def _unpack_header(packed: bytes, version: int) -> _Header:
    fields = _Fields(_inflate(packed))
    name, squeeze_ratio, pct_3x3 = fields.text(), fields.optional(), fields.optional()
    num_classes, padding = fields.take("IB")
    bgr, resize, crop, scale = fields.take("BHHd")
    statistics = fields.take("6d")
    resize_to, resampling = fields.resizing() if version > OLDEST_VERSION else ("shorter side", "bilinear")
    info = ModelInfo(
        name=name,
        num_classes=num_classes,
        squeeze_ratio=squeeze_ratio,
        pct_3x3=pct_3x3,
        classifier_padding=padding,
        preprocessing=Preprocessing(
            channels="BGR" if bgr else "RGB",
            resize_to=resize_to,
            resize=resize,
            filter=resampling,
            crop=crop,
            scale=scale,
            mean=statistics[:3],
            std=statistics[3:],
        ),
    )
    (count,) = fields.take("H")
    names = [fields.text() for _ in range(count)]
    if len(set(names)) < count:
        raise ArchiveError("is damaged: two tensors have one name")
    shapes = [fields.take(f"{fields.take('B')[0]}I") for _ in range(count)]
    # The other lengths of an empty tensor are bounded too: numpy refuses sizes that overflow.
    if any(len(shape) > MOST_DIMENSIONS for shape in shapes):
        raise ArchiveError(f"is damaged: a tensor has more than {MOST_DIMENSIONS} dimensions")
    if sum(math.prod(length or 1 for length in shape) for shape in shapes) > MOST_WEIGHTS:
        raise ArchiveError(f"is damaged: it claims more than {MOST_WEIGHTS:,} weights")
    known = [_statistics(*fields.take("BHB")) for _ in range(count)]
    entries = []
    for name, shape, each in zip(names, shapes, known, strict=True):
        step, values, zero = fields.take("fII")
        codebook = np.frombuffer(fields.bytes(4 * values), "<f4").astype(np.float32) if values else None
        if zero >= max(values, 1):
            raise ArchiveError(f"is damaged: the zero of {name} is not in its codebook")
        entries.append(_Entry(name, shape, each, step, codebook, zero))
    fields.finish()
    return _Header(info, entries)


def _statistics(density: int, scale: int, last_token: int) -> SymbolStatistics:
    if scale < 1 or last_token > LAST_TOKEN:
        raise ArchiveError("is damaged: a tensor's statistics are none")
    return SymbolStatistics(density, scale, last_token)


def _inflate(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, _HEADER_RATIO * len(packed) + 4096)
    except zlib.error:
        raise ArchiveError("is damaged: its header cannot be unpacked") from None
    if not unpacker.eof or unpacker.unused_data:
        raise ArchiveError("is damaged: its header is cut off or too long")
    return content

"""Updates: the result comes back to the byte, next to nothing travels for a small change, damage is told."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsqz.errors import RunError
from distsqz.shipping import update
from distsqz.shipping.update import HEADER, apply_update, write_update


def updated(base: bytes, result: bytes) -> bytes:
    """The update between two contents."""
    written = io.BytesIO()
    write_update(io.BytesIO(base), io.BytesIO(result), written)
    return written.getvalue()


def applied(content: bytes, base: bytes) -> bytes:
    """What an update makes of a base."""
    written = io.BytesIO()
    apply_update(io.BytesIO(content), io.BytesIO(base), written)
    return written.getvalue()


@settings(deadline=None)
@given(
    st.integers(0, 70).flatmap(
        lambda n: st.tuples(st.binary(min_size=n, max_size=n), st.binary(min_size=n, max_size=n))
    )
)
def test_any_two_contents_of_one_size_come_back_to_the_byte(contents: tuple[bytes, bytes]) -> None:
    base, result = contents
    assert applied(updated(base, result), base) == result


def test_pieces_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "PIECE_BYTES", 64)
    draw = np.random.default_rng(1)
    base, result = draw.bytes(64 * 5 + 13), draw.bytes(64 * 5 + 13)
    assert applied(updated(base, result), base) == result


def weights(seed: int = 0, size: int = 200_000) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """As a trained layer's are distributed."""
    return np.random.default_rng(seed).normal(0, 0.05, size).astype("<f4")


def test_a_step_of_training_costs_less_than_the_file() -> None:
    old = weights()
    step = np.random.default_rng(1).normal(0, 1e-5, old.size).astype("<f4")
    content = updated(old.tobytes(), (old + step).tobytes())
    assert len(content) < 0.5 * old.nbytes


def test_a_frozen_layer_costs_nothing() -> None:
    old = weights()
    new = old.copy()
    new[:1000] += np.float32(1e-4)
    assert len(updated(old.tobytes(), new.tobytes())) < 5_000


def test_the_same_files_give_the_same_update() -> None:
    old, new = weights(0).tobytes(), weights(1).tobytes()
    assert updated(old, new) == updated(old, new)


def test_files_of_different_sizes_have_no_update() -> None:
    with pytest.raises(ValueError, match="4 and 8 bytes"):
        updated(bytes(4), bytes(8))


def test_another_base_is_refused() -> None:
    content = updated(bytes(8), bytes(range(8)))
    with pytest.raises(RunError, match="another base"):
        applied(content, bytes([1]) + bytes(7))


def test_every_truncation_and_every_damaged_byte_is_told() -> None:
    base, result = weights(0, 30).tobytes(), weights(1, 30).tobytes()
    content, told = updated(base, result), 0
    for end in range(len(content)):
        with pytest.raises(RunError):
            applied(content[:end], base)
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        try:
            assert applied(bytes(damaged), base) == result  # a bit that means nothing
        except RunError:
            told += 1
    assert told > 0.9 * len(content)


def test_a_piece_that_claims_to_be_huge_is_refused_before_memory_is_taken() -> None:
    base = bytes(16)
    content = updated(base, bytes(range(16)))
    # Zstandard's frame header (RFC 8878, 3.1.1): a content size of eight bytes, 1 TiB.
    frame = struct.pack("<IBQ", 0xFD2FB528, 0xE0, 1 << 40) + bytes(8)
    with pytest.raises(RunError, match="damaged"):
        applied(content[: HEADER.size] + struct.pack("<I", len(frame)) + frame, base)

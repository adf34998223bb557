"""What shipping must cost, against figures worked out by hand and against token buckets acted out."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsqz.theory.shipping import ClientLink, shipping_bound, wire_bytes
from distsqz.theory.token_bucket import TokenBucket

MBIT = 10**6 / 8
FRAME_BYTES = 1514


def link(mbit: float, copies: int = 1) -> ClientLink:
    return ClientLink(bucket=TokenBucket(mbit * MBIT), copies=copies)


def test_a_full_frame_takes_1514_bytes_for_1448() -> None:
    assert wire_bytes(1448) == 1514
    assert wire_bytes(1449) == 1449 + 2 * 66
    assert wire_bytes(0) == 0
    assert wire_bytes(244_403_360) / 244_403_360 == pytest.approx(1514 / 1448, rel=1e-6)


def test_a_bucket_holds_a_millisecond_or_ten_frames() -> None:
    assert TokenBucket(1000 * MBIT).burst_bytes == 125_000
    assert TokenBucket(MBIT).burst_bytes == 15_140


def test_the_bucket_s_first_bytes_take_no_time() -> None:
    # 20,000 bytes in 14 frames are 20,924 bytes, of which 15,140 are there at once; the rest at 1 Mbit/s.
    bound = shipping_bound(wire_bytes(20_000), TokenBucket(1000 * MBIT), [link(1)])
    assert bound.seconds == pytest.approx(0.046272)
    assert bound.bottleneck == "clients"


def test_what_every_bucket_holds_takes_no_time_and_no_link_is_the_bottleneck() -> None:
    bound = shipping_bound(wire_bytes(1448), TokenBucket(1000 * MBIT), [link(1)] * 2)
    assert (bound.seconds, bound.bottleneck) == (0, None)


def test_alexnet_over_10_mbit_takes_each_of_8_clients_204_s() -> None:
    bound = shipping_bound(wire_bytes(244_403_360), TokenBucket(1000 * MBIT), [link(10)] * 8)
    assert bound.seconds == pytest.approx(204.4, abs=0.1)
    assert bound.bottleneck == "clients"


def test_a_head_as_slow_as_its_clients_is_the_bottleneck() -> None:
    bound = shipping_bound(10**6, TokenBucket(10 * MBIT), [link(10)] * 8)
    assert bound.seconds == pytest.approx((8 * 10**6 - 15_140) / (10 * MBIT))
    assert bound.bottleneck == "head"


def test_the_slowest_client_is_the_last() -> None:
    bound = shipping_bound(10**6, TokenBucket(1000 * MBIT), [link(10), link(1)])
    assert bound.seconds == pytest.approx((10**6 - 15_140) / MBIT)


def test_clients_on_one_host_share_one_link_and_one_bucket() -> None:
    bound = shipping_bound(10**6, TokenBucket(1000 * MBIT), [link(10, copies=2)])
    assert bound.seconds == pytest.approx((2 * 10**6 - 15_140) / (10 * MBIT))


@dataclass
class ActedOutBucket:
    """A token bucket as the kernel keeps one: tokens that fill with time, taken by each frame in its turn."""

    bytes_per_s: float
    burst_bytes: int
    now: float = 0.0
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.burst_bytes

    def passes(self, at: float, size: int) -> float:
        """When a frame that arrives then has passed; frames come in order."""
        self._advance(max(at, self.now))
        if self.tokens < size:
            self._advance(self.now + (size - self.tokens) / self.bytes_per_s)
        self.tokens -= size
        return self.now

    def _advance(self, to: float) -> None:
        self.tokens = min(self.burst_bytes, self.tokens + (to - self.now) * self.bytes_per_s)
        self.now = to


def acted_out(frames: list[int], head: TokenBucket, clients: list[ClientLink]) -> float:
    """When the last frame of the last client has passed; the head sends a frame to each in turn."""
    sending = ActedOutBucket(head.rate_bytes_per_s, head.burst_bytes)
    links = [ActedOutBucket(each.bucket.rate_bytes_per_s, each.bucket.burst_bytes) for each in clients]
    return max(
        links[index].passes(sending.passes(0.0, size), size)
        for size in frames
        for index, each in enumerate(clients)
        for _ in range(each.copies)
    )


@settings(deadline=None)
@given(
    st.integers(1, 600),
    st.integers(100, FRAME_BYTES),
    st.floats(1, 1000),
    st.lists(st.tuples(st.floats(1, 1000), st.integers(1, 3)), min_size=1, max_size=5),
)
def test_token_buckets_in_a_row_take_the_bound_and_at_most_a_round_of_frames_more(
    full_frames: int, last_bytes: int, head_mbit: float, clients: list[tuple[float, int]]
) -> None:
    frames = [FRAME_BYTES] * full_frames + [last_bytes]
    links = [link(mbit, copies) for mbit, copies in clients]
    head = TokenBucket(head_mbit * MBIT)
    bound = shipping_bound(sum(frames), head, links)
    took_s = acted_out(frames, head, links)
    copies = sum(each.copies for each in links)
    round_s = copies * FRAME_BYTES / head.rate_bytes_per_s
    frame_s = max(each.copies * FRAME_BYTES / each.bucket.rate_bytes_per_s for each in links)
    assert bound.seconds - 1e-9 <= took_s <= bound.seconds + round_s + frame_s

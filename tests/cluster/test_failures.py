"""Of all that workers say when a run fails, the line that names the reason is told."""

from __future__ import annotations

import socket
import time

import pytest
from ray.exceptions import RayActorError

from distsqz.addresses import listen
from distsqz.cluster.failures import (
    CALL_EVERY_S,
    Failure,
    Heartbeats,
    explain,
    failure_of,
    hosts_without_answer,
)
from tests.ipv6 import LOOPBACK


def failure(rank: int, text: str, of_communication: bool = False) -> Failure:
    return Failure(
        text=text,
        cell="c",
        host=f"h{rank}",
        rank=rank,
        step=7,
        trace=f"trace of {rank}",
        of_communication=of_communication,
    )


BROKEN = "RuntimeError: [gloo] Connection closed by peer"


def test_a_rank_that_failed_by_itself_is_named_before_those_that_lost_it() -> None:
    said = [failure(0, BROKEN, True), failure(2, BROKEN, True), failure(1, "ValueError: own fault")]
    told = explain(said, {}, ["h0", "h1", "h2"])
    assert str(told) == "cell c, host h1, rank 1, step 7: ValueError: own fault"
    assert told.__notes__ == ["On the worker:\ntrace of 1"]


def test_a_rank_that_said_nothing_died_and_is_named_with_its_host() -> None:
    lost = {1: RuntimeError("The actor died.\nmore")}
    told = explain([failure(0, BROKEN, True)], lost, ["h0", "h1"])
    assert str(told) == "cell c, host h1, rank 1, step 7: the worker died (The actor died.)"


def test_broken_connections_alone_are_told_as_they_are() -> None:
    told = explain([failure(1, BROKEN, True), failure(0, BROKEN, True)], {}, ["h0", "h1"])
    assert str(told) == f"cell c, host h1, rank 1, step 7: {BROKEN}"


def test_a_rank_that_died_before_any_other_reported_is_named_with_rays_reason() -> None:
    told = explain([], {1: RayActorError(error_msg="The node died.")}, ["h0", "h1"])
    assert str(told) == "host h1, rank 1: the worker died (The node died.)"


def test_a_rank_s_own_failure_is_told_before_the_end_of_a_rank_that_reported_nothing() -> None:
    told = explain([failure(0, "ValueError: own fault")], {1: RayActorError()}, ["h0", "h1"])
    assert told.text == "ValueError: own fault"


def test_a_rank_that_is_cut_off_is_named_before_ray_notices() -> None:
    timed_out = "RuntimeError: [/x/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 5000ms. Look"
    said = [failure(rank, timed_out, of_communication=True) for rank in (3, 0, 1)]
    told = explain(said, {}, ["h1", "h2", "h3", "h4"])
    assert str(told) == (
        "cell c, host h3, rank 2, step 7: cut off from the other ranks (rank 2 on h3); "
        "they waited in vain: Timed out waiting 5000ms"
    )


def test_a_rank_that_alone_hears_nothing_is_the_one_cut_off() -> None:
    told = explain([failure(1, BROKEN, of_communication=True)], {}, ["h1", "h2", "h3"])
    assert (told.host, told.rank) == ("h2", 1)


def test_a_rank_that_failed_by_itself_is_named_before_the_silent() -> None:
    said = [failure(0, BROKEN, of_communication=True), failure(1, "ValueError: own fault")]
    assert explain(said, {}, ["h0", "h1", "h2"]).text == "ValueError: own fault"


def test_of_the_silent_the_one_whose_host_does_not_answer_is_cut_off_and_not_the_late() -> None:
    said = [failure(3, BROKEN, of_communication=True)]
    told = explain(said, {}, ["h1", "h2", "h3", "h4"], without_answer={"h3"})
    assert (told.host, told.rank) == ("h3", 2)


def test_a_host_that_alone_has_no_answer_from_any_other_is_the_one_cut_off() -> None:
    said = [failure(0, BROKEN, of_communication=True)]
    told = explain(said, {}, ["h1", "h2", "h3"], without_answer={"h2", "h3"})
    assert (told.host, told.rank) == ("h1", 0)


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_host_answers_where_something_listens(host: str) -> None:
    with listen(host) as there, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        addresses = {"there": there.getsockname()[:2], "gone": bound.getsockname()[:2]}
        assert hosts_without_answer(addresses) == {"gone"}
        assert hosts_without_answer({}) == set()


def test_a_host_is_missing_once_it_has_not_answered_for_the_time_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with socket.create_server(("127.0.0.1", 0)) as there:
        heartbeats = Heartbeats({"a": there.getsockname()[:2]}, silence_s=2 * CALL_EVERY_S)
        now[0] += CALL_EVERY_S
        assert heartbeats.missing() == set()
        address = there.getsockname()
    for missing in (set(), {"a"}, {"a"}):
        now[0] += CALL_EVERY_S
        assert heartbeats.missing() == missing
        assert heartbeats.missing() == set()  # the next call is not due
    with socket.create_server(address):
        now[0] += CALL_EVERY_S
        assert heartbeats.missing() == set()


@pytest.mark.parametrize(
    ("message", "of_communication"),
    [
        ("[/x/gloo/transport/tcp/pair.cc:538] Connection closed by peer", True),
        (
            "Got the following error when running the callback: RuntimeError: "
            "Application timeout caused pair closure",
            True,
        ),
        ("shape mismatch", False),
    ],
)
def test_errors_of_gloo_are_known_by_their_messages(message: str, of_communication: bool) -> None:
    assert failure_of(RuntimeError(message), 0, "h1").of_communication == of_communication

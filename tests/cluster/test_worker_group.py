"""Ranks by host, and the GPU of each worker."""

from __future__ import annotations

import pytest

from distsqz.cluster.worker_actor import WorkerPlace
from distsqz.cluster.worker_device import gpu_name
from distsqz.cluster.worker_group import by_host


def place(host: str, *gpus: str) -> WorkerPlace:
    """A worker's place."""
    return WorkerPlace(node=f"node of {host}", host=host, address=host, pid=1, gpus=gpus)


def test_ranks_of_a_host_follow_each_other_and_hosts_keep_their_order() -> None:
    assert by_host([place("b"), place("a"), place("b"), place("c"), place("a")]) == [0, 2, 1, 4, 3]


def test_workers_of_a_host_are_ordered_by_the_numbers_of_their_gpus() -> None:
    places = [place("a", "10"), place("b", "1"), place("a", "2"), place("b", "0")]
    assert by_host(places) == [2, 0, 3, 1]


@pytest.mark.parametrize(
    ("lent", "visible", "count", "device"),
    [
        ("0", "0", 1, "cuda:0"),
        ("3", "3", 1, "cuda:0"),
        ("3", "1,3", 2, "cuda:1"),
        ("1", None, 2, "cuda:1"),
        ("GPU-8932f937", "GPU-8932f937", 1, "cuda:0"),
    ],
)
def test_torch_counts_the_gpus_that_the_process_sees(
    lent: str, visible: str | None, count: int, device: str
) -> None:
    assert gpu_name([lent], visible, count) == device


@pytest.mark.parametrize(
    ("lent", "visible", "count", "reason"),
    [
        ([], "", 0, "Ray lent this worker 0 GPUs, and it trains on one"),
        (["0", "1"], "0,1", 2, "Ray lent this worker 2 GPUs, and it trains on one"),
        (["1"], "0", 1, "Ray lent GPU 1, and CUDA_VISIBLE_DEVICES=0 leaves it out"),
        (["2"], None, 2, "Ray lent GPU 2, and torch sees 2 GPUs; is its build one for CUDA?"),
        (["0"], "0", 0, "Ray lent GPU 0, and torch sees 0 GPUs; is its build one for CUDA?"),
    ],
)
def test_a_worker_without_exactly_one_gpu_that_torch_sees_says_why(
    lent: list[str], visible: str | None, count: int, reason: str
) -> None:
    with pytest.raises(RuntimeError) as error:
        gpu_name(lent, visible, count)
    assert str(error.value) == reason

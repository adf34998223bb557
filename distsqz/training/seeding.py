"""Random draws that follow from a seed and leave the process's own random state unchanged."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seeds every generator that a model may draw from: torch's, numpy's and Python's own."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch, numpy and `random`, and restores their states afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices):
            seed_all(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)

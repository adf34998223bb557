"""Rays for the commands: one that many tests join, or one of a test's own, gone with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import (
    SHARED_CPUS,
    Commands,
    commands_that_join,
    commands_with_own_ray,
    ray_home,
    start_head,
)

NO_SPARE_WORKERS = {"RAY_prestart_worker_first_driver": "false", "RAY_enable_worker_prestart": "false"}
"""A process for every core, made in advance for every command, would take most of a small machine's time."""


@pytest.fixture(scope="session")
def shared_home() -> Iterator[Path]:
    """The directory of the Ray that many tests join; its processes have it as RAY_TMPDIR."""
    with ray_home() as home:
        yield home


@pytest.fixture(scope="session")
def ray_address(shared_home: Path) -> str:
    """The address of a real Ray of `SHARED_CPUS` cores."""
    return start_head(shared_home, NO_SPARE_WORKERS, SHARED_CPUS)


@pytest.fixture
def joined(ray_address: str, tmp_path: Path) -> Iterator[Commands]:
    """Commands that join the shared Ray."""
    with commands_that_join(ray_address, tmp_path / "runs") as commands:
        yield commands


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Commands]:
    """Commands that start a Ray of their own, of which nothing may be left."""
    with commands_with_own_ray(tmp_path / "runs") as commands:
        yield commands

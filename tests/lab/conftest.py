"""Labs that several tests of a file look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from labs import Commands, commands, lab_up, need_sshd


@pytest.fixture
def fresh() -> Iterator[Commands]:
    """Commands about a lab that is not up yet."""
    with commands() as here:
        yield here


@pytest.fixture(scope="module")
def pair() -> Iterator[Commands]:
    """A lab of two hosts at 100 Mbit/s, the same for a whole file: whoever changes it puts it back."""
    with lab_up(2, "100mbit") as here:
        yield here


@pytest.fixture(scope="module")
def with_ssh() -> Iterator[Commands]:
    """A lab of two hosts with sshd, the same for a whole file."""
    need_sshd()
    with lab_up(2, with_ssh=True) as here:
        yield here

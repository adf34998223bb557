"""Whether this machine has IPv6, for tests that need it."""

from __future__ import annotations

import socket

import pytest


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this kernel has no IPv6 loopback address")

LOOPBACK = ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)]
"""Values for a test that runs over each protocol."""

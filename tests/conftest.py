"""Settings of all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# By default an example that takes more than 200 ms fails, as one does on a machine that is busy.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

"""What a session makes sure of before anything is recorded."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from distsqz.cluster import session
from distsqz.training.session import SessionPlan


@pytest.mark.parametrize(
    ("gpus", "driver_has_gpu", "tried"), [(True, False, 1), (True, True, 0), (False, False, 0)]
)
def test_models_are_tried_on_a_worker_s_gpu_where_the_driver_has_none(
    gpus: bool, driver_has_gpu: bool, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[SessionPlan] = []
    monkeypatch.setattr(session, "ray_cluster", lambda *_: nullcontext(True))
    monkeypatch.setattr(session, "try_on_worker", plans.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: driver_has_gpu)
    plan = SessionPlan(cells=[])
    with session._ray_for(plan, session.SessionOptions(workers=1, gpus=gpus)) as embedded:
        assert embedded
        assert plans == [plan] * tried

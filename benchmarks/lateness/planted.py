"""Models that sleep in one phase of every step on one rank, and models that do not.

`benchmarks.lateness.planted:forward_100ms_on_rank_2` is a model whose forward pass sleeps 100 ms on rank 2.
`on_time_0`, `on_time_1`, ... are models without a delay.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from distsqz.data import train_batches
from distsqz.data.split import Batch

PHASES = ("data", "forward", "backward", "optimizer")

_NAME = re.compile(rf"({'|'.join(PHASES)})_(\d+)ms_on_rank_(\d+)")


class OnTime(nn.Sequential):
    """A model of some hundred parameters, so that a step hardly computes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, num_classes),
        )


class Late(OnTime):
    """The same model; on one rank of a process group each of its training steps sleeps in one phase."""

    def __init__(self, num_classes: int, *, phase: str, delay_s: float, rank: int) -> None:
        super().__init__(num_classes)
        self._phase, self._delay_s = phase, delay_s
        if not dist.is_initialized() or dist.get_rank() != rank:
            self._phase = "none"
        elif phase == "data":
            _delay_next_batches(delay_s)
        elif phase == "optimizer":
            own = next(self.parameters())

            def sleep_before_own_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
                if optimizer.param_groups[0]["params"][0] is own:
                    time.sleep(delay_s)

            register_optimizer_step_pre_hook(sleep_before_own_step)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, 3, S, S]."""
        if self._phase == "forward" and self.training:
            time.sleep(self._delay_s)
        logits: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        if self._phase == "backward" and self.training:
            logits.register_hook(lambda _: time.sleep(self._delay_s))  # type: ignore[no-untyped-call]
        return logits


def _delay_next_batches(delay_s: float) -> None:
    """Makes the training batches that are opened next sleep before each batch.

    The trainer builds a cell's model just before it opens its batches. No option leads a user's code into the
    data phase, so the trainer's own name is replaced for this one call.
    """

    def open_delayed(*args: Any, **kwargs: Any) -> Generator[Batch, None, None]:
        replacement.stop()
        return _delayed(train_batches(*args, **kwargs), delay_s)

    replacement = mock.patch("distsqz.training.trainer.train_batches", open_delayed)
    replacement.start()


def _delayed(batches: Generator[Batch, None, None], delay_s: float) -> Generator[Batch, None, None]:
    with closing(batches):
        for batch in batches:
            time.sleep(delay_s)
            yield batch


def __getattr__(name: str) -> Any:
    """The factory of the model that `name` describes."""
    if re.fullmatch(r"on_time_\d+", name):
        return OnTime
    if match := _NAME.fullmatch(name):
        return functools.partial(Late, phase=match[1], delay_s=int(match[2]) / 1e3, rank=int(match[3]))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Models for `--model tests.own_models:NAME`: a small one that works, others that end badly."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import torch.distributed as dist
from torch import Tensor, nn

ENDS_AT_STEP = 3
"""The step in which the models that end badly do so."""

ENDS_ON_RANK = 1

COMPLAINT = "the hamster in rank one is tired"


class SmallNet(nn.Sequential):
    """Images of any size -> logits; with dropout, so that its losses tell whether random draws repeat."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8 * 16, num_classes),
        )


class TwoHeads(SmallNet):
    """Returns the logits of two heads while it is trained."""

    def forward(self, images: Tensor) -> object:
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


def net_of_a_file(num_classes: int) -> SmallNet:
    """Reads a file by a path that is relative to where the command runs."""
    Path("tests/own_models.py").read_text()
    return SmallNet(num_classes)


class _EndsBadly(SmallNet):
    """Trains as far as `ENDS_AT_STEP`; there the rank `ENDS_ON_RANK` calls `end`."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._steps_begun = 0

    def forward(self, images: Tensor) -> Tensor:
        if self.training and dist.is_initialized() and dist.get_rank() == ENDS_ON_RANK:
            if self._steps_begun == ENDS_AT_STEP:
                self.end()
            self._steps_begun += 1
        logits: Tensor = super().forward(images)
        return logits

    def end(self) -> None:
        raise NotImplementedError


class RaisingNet(_EndsBadly):
    def end(self) -> None:
        raise ValueError(COMPLAINT)


MARKER = "died-once"
"""The file in RAY_TMPDIR where the model that dies once leaves word that it has."""


class DiesOnceNet(_EndsBadly):
    """Its process is gone the first time; the one that takes its place trains on."""

    def end(self) -> None:
        with contextlib.suppress(FileExistsError):
            (Path(os.environ["RAY_TMPDIR"]) / MARKER).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)


class DyingNet(_EndsBadly):
    """Its process is gone at once, as if the kernel had run out of memory."""

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class NotingNet(SmallNet):
    """Notes in a file beside the runs when each of its training steps begins."""

    PAUSE_S = 0.0

    def forward(self, images: Tensor) -> Tensor:
        if self.training and dist.is_initialized():
            folder = Path(os.environ["DISTSQZ_TEST_RUNS"]).parent
            with (folder / f"begun-{dist.get_rank()}").open("a") as lines:
                lines.write(f"{time.time()}\n")
            time.sleep(self.PAUSE_S)
        logits: Tensor = super().forward(images)
        return logits


class SlowNotingNet(NotingNet):
    """Likewise, in steps of half a second."""

    PAUSE_S = 0.5


def begun_steps(folder: Path) -> dict[int, list[float]]:
    """When each rank's steps of a `NotingNet` began, in seconds since the epoch."""
    return {
        int(file.name.removeprefix("begun-")): [float(line) for line in file.read_text().split()]
        for file in folder.glob("begun-*")
    }

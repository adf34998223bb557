"""The training loop of Deep Compression, in one process, with a constraint on the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn
from torch.nn import functional as F

from distsqz.data import Split, train_batches
from distsqz.errors import RunError
from distsqz.models.recipes import linear_decay


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Settings of stochastic gradient descent; the learning rate falls linearly to 0 by default."""

    steps: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 64
    seed: int = 0
    bf16: bool = True
    """Whether to compute under autocast in bf16; parameters and gradients stay fp32."""
    schedule: Callable[[float], float] = linear_decay
    """Factor on `lr`, given the progress from 0 to 1."""


class Constraint(Protocol):
    """A constraint on the weights during training."""

    @property
    def learnt(self) -> Sequence[nn.Parameter]:
        """Parameters that the optimizer updates: the model's own, or those that they are computed from."""

    def before_update(self) -> None:
        """Computes the gradients of `learnt` from those of the model's parameters."""

    def after_update(self) -> None:
        """Computes the model's parameters from `learnt`."""


class Free:
    """No constraint: every parameter is trained directly."""

    def __init__(self, model: nn.Module) -> None:
        self.learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def before_update(self) -> None:
        """Does nothing: the gradients are already those of `learnt`."""

    def after_update(self) -> None:
        """Does nothing: the parameters are `learnt`."""


def fine_tune(
    model: nn.Module, split: Split, settings: FineTuning, constraint: Constraint, doing: str = "training"
) -> float:
    """Trains `model` in place and returns the mean loss over the last tenth of the steps, in nats.

    Leaves the model in training mode. `doing` names the progress bar, which goes to stderr.

    Raises:
        RequestError: the split is smaller than a batch.
        RunError: the loss is no longer a number.
    """
    torch.manual_seed(settings.seed)  # dropout
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        constraint.learnt,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        foreach=True,
    )
    batches = train_batches(split, rank=0, world_size=1, batch_size=settings.batch_size, seed=settings.seed)
    losses = []
    with _progress() as progress, closing(batches):
        bar = progress.add_task(doing, total=settings.steps, loss=math.nan)
        for step, (images, labels) in zip(range(settings.steps), batches, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * settings.schedule(step / settings.steps)
            model.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                loss = F.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            constraint.before_update()
            optimizer.step()
            constraint.after_update()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise RunError(
                    f"the loss is {losses[-1]}; a lower learning rate (now {settings.lr:g}) may cure that",
                    step=step,
                )
            progress.update(bar, advance=1, loss=losses[-1])
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last) if last else math.nan


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )

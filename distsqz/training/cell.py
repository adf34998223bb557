"""A cell: one model under one strategy at one world size with one set of options."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from distsqz.data import ImageData, absolute_spec, open_data, steps_per_epoch
from distsqz.errors import RequestError
from distsqz.models.registry import ModelOptions, build_model, default_image_size
from distsqz.training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a session measures; plain values, so that it can be sent to workers."""

    name: str
    model: str
    strategy: str
    world_size: int
    image_size: int
    num_classes: int
    total_steps: int
    """Updates from the start of training to its end, warm-up included."""
    options: TrainingOptions

    @property
    def global_batch(self) -> int:
        """Images that all workers take together in a step."""
        return self.options.batch_size * self.world_size

    def build(self) -> nn.Module:
        """The model with its initial parameters: the same for the same seed."""
        torch.manual_seed(self.options.seed)
        shape = ModelOptions(
            model=self.model,
            squeeze_ratio=self.options.squeeze_ratio,
            pct_3x3=self.options.pct_3x3,
            image_size=self.image_size,
        )
        return build_model(shape, self.num_classes)

    def open_data(self) -> ImageData:
        """The images that it trains on."""
        return open_data(
            self.options.data,
            image_size=self.image_size,
            seed=self.options.seed,
            num_classes=self.options.num_classes,
        )


def plan_cell(model: str, strategy: str, world_size: int, options: TrainingOptions) -> Cell:
    """The cell of a model, as long as its data and options make sense together.

    Raises:
        RequestError: the data cannot be had, or there is too little of it.
    """
    options = replace(options, data=absolute_spec(options.data))  # workers may stand elsewhere
    image_size = options.image_size or default_image_size(model)
    data = open_data(options.data, image_size=image_size, seed=options.seed, num_classes=options.num_classes)
    return Cell(
        name=f"{model.replace(':', '.')}-{strategy}-w{world_size}",
        model=model,
        strategy=strategy,
        world_size=world_size,
        image_size=image_size,
        num_classes=options.num_classes or data.num_classes,
        total_steps=_total_steps(data, world_size, options),
        options=options,
    )


def describe_cell(cell: Cell, module: nn.Module) -> dict[str, Any]:
    """A cell's entry in run.json: its options and what its model weighs."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return {
        "cell": cell.name,
        "model": cell.model,
        "strategy": cell.strategy,
        "world_size": cell.world_size,
        "params": sum(parameter.numel() for parameter in module.parameters()),
        "tensors": len(trained),
        "payload_bytes": sum(parameter.nbytes for parameter in trained),
        **asdict(cell.options),
        "image_size": cell.image_size,
        "num_classes": cell.num_classes,
        "block_steps": cell.options.block,
        "steps": cell.total_steps - cell.options.warmup_steps,
    }


def _total_steps(data: ImageData, world_size: int, options: TrainingOptions) -> int:
    an_epoch = steps_per_epoch(data.train, world_size=world_size, batch_size=options.batch_size)
    if options.epochs is None:
        return options.warmup_steps + options.steps
    if options.epochs * an_epoch <= options.warmup_steps:
        raise RequestError(
            f"--warmup-steps {options.warmup_steps}: {options.epochs} epochs are only "
            f"{options.epochs * an_epoch} steps; leave some to measure"
        )
    return options.epochs * an_epoch

"""A cell as its workers need it: the options that were given, and the values that follow from model and
data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from distsqz.data import ImageData, open_data, steps_per_epoch
from distsqz.errors import InvalidValue
from distsqz.models.preprocessing import Preprocessing
from distsqz.models.recipes import Recipe
from distsqz.models.registry import ModelOptions, make_model, recipe_for
from distsqz.runs.cell_spec import CellSpec
from distsqz.strategies.agreement import state_digests
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.strategy import Strategy, TensorKind
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.memory_order import lay_out
from distsqz.training.options import TrainingOptions
from distsqz.training.seeding import seeded

ADAM_LR = 1e-3
"""Learning rate of Adam and AdamW by default; source: torch's own default."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A model, a strategy and options that a session measures. It holds plain values, so that it can be sent
    to workers.
    """

    spec: CellSpec
    image_size: int
    num_classes: int
    """Number of outputs of the model. `options.num_classes` is the number that its factory is called with, or
    None."""
    total_steps: int
    """Number of updates from the start of training to its end, warm-up included."""
    options: TrainingOptions
    """Options of training. Image size and memory order have their final values."""
    strategy: Strategy
    """How replicas agree. Options that were left open have their final values."""
    preprocessing: Preprocessing | None = None
    """How image folders are prepared for its initial weights; None if the weights do not specify it."""

    label: str | None = None
    """Name of the cell in its session, if shorter than its id."""

    @property
    def name(self) -> str:
        """Name of the cell in records, files and run.json, unique in its session."""
        return self.label or self.spec.id

    @property
    def model(self) -> str:
        """Name of the model: one of the registry, or package.module:factory."""
        return self.spec.model

    @property
    def world_size(self) -> int:
        """Number of workers."""
        return self.spec.world_size

    @property
    def alone(self) -> bool:
        """Whether rank 0 trains it by itself while the other workers wait."""
        return self.strategy.is_baseline

    @property
    def together(self) -> bool:
        """Whether all workers of the session make each step together."""
        return not self.alone and self.strategy.makes_steps_together

    @property
    def server(self) -> ServerOptions | None:
        """Options of its servers; None where it has none."""
        return self.strategy.options if self.strategy.has_servers else None

    @property
    def global_batch(self) -> int:
        """Number of images in a step of all workers together."""
        return self.options.batch_size * self.world_size

    def build(self) -> nn.Module:
        """Builds the model with its initial parameters, which are the same for the same seed.

        A factory may draw them with torch, numpy or `random`.

        Raises:
            RequestError: the model cannot be made.
        """
        with seeded(self.options.seed):
            return make_model(model_options(self.model, self.options), self.options.num_classes)

    def is_reproducible(self) -> bool:
        """Whether building the model again gives the same parameters. The registry's models do."""
        return ":" not in self.model or state_digests(self.build()) == state_digests(self.build())

    def build_replica(
        self, weights: Mapping[str, Any] | None = None, resume: Checkpoint | None = None
    ) -> nn.Module:
        """Builds the model with the parameters that training begins with, in its memory order.

        Args:
            weights: parameters instead of the seed's.
            resume: where training goes on from; goes before `weights`.
        """
        module = self.build()
        if resume:
            module.load_state_dict(resume.model)
        elif weights:
            module.load_state_dict(weights)
        lay_out(module, self.memory_format(module))
        return module

    def memory_format(self, module: nn.Module) -> torch.memory_format:
        """The memory order of images and filters."""
        return memory_format(module, self.options)

    def recipe(self) -> Recipe:
        """The model's recipe, its learning rate scaled to the global batch unless the user gave one.

        Source of the linear scaling: Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.1.
        """
        recipe = recipe_for(self.model)
        by_default = recipe.lr * self.global_batch / recipe.batch
        lr = self.options.lr or (by_default if self.options.optimizer == "sgd" else ADAM_LR)
        return replace(recipe, lr=lr)

    def open_data(self) -> ImageData:
        """Opens the data set that the cell trains on."""
        return open_data(
            self.options.data,
            image_size=self.image_size,
            seed=self.options.seed,
            num_classes=self.num_classes,
            preprocessing=self.preprocessing,
        )


def memory_format(module: nn.Module, options: TrainingOptions) -> torch.memory_format:
    """The memory order of a model's images and filters."""
    convolutional = any(isinstance(part, nn.Conv2d) for part in module.modules())
    on = options.channels_last == "on" or (options.channels_last == "auto" and convolutional)
    return torch.channels_last if on else torch.contiguous_format


def model_options(model: str, options: TrainingOptions) -> ModelOptions:
    """The options from which the model is built."""
    return ModelOptions(
        model=model,
        squeeze_ratio=options.squeeze_ratio,
        pct_3x3=options.pct_3x3,
        image_size=options.image_size,
    )


def plan_cell(
    spec: CellSpec,
    options: TrainingOptions,
    data: ImageData,
    num_classes: int,
    strategy: Strategy,
) -> Cell:
    """Makes the cell of a spec and checks that its data and options fit together.

    Args:
        spec: what was asked for.
        options: how it is trained, the size of an image included.
        data: what it is trained on.
        num_classes: outputs of the model.
        strategy: how replicas agree, settled for the number of workers.

    Raises:
        RequestError: there is too little data.
    """
    assert options.image_size is not None
    if options.evaluate == "end" and data.validation is None:
        raise InvalidValue("evaluate", "end", f"`data={options.data}` has no validation images; leave it out")
    settled = {
        "image_size": options.image_size,
        "num_classes": num_classes,
        "channels_last": options.channels_last,
        **asdict(strategy.options),
    }
    return Cell(
        spec=replace(spec, settled=settled),
        image_size=options.image_size,
        num_classes=num_classes,
        total_steps=_total_steps(data, spec.world_size, options),
        options=options,
        strategy=strategy,
    )


def describe_cell(cell: Cell, module: nn.Module) -> dict[str, Any]:
    """A cell's entry in run.json: its options and what its model weighs."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    kinds = [TensorKind(tuple(each.shape), each.element_size()) for each in trained]
    return {
        "cell": cell.name,
        "id": cell.spec.id,
        "options": cell.spec.options(),
        "model": cell.model,
        "strategy": cell.strategy.name,
        "world_size": cell.world_size,
        "params": sum(parameter.numel() for parameter in module.parameters()),
        "tensors": len(trained),
        "payload_bytes": sum(parameter.nbytes for parameter in trained),
        "sent_payload_bytes": cell.strategy.payload_bytes(kinds),
        **asdict(cell.options),
        **asdict(cell.strategy.options),
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
        raise InvalidValue(
            "warmup_steps",
            options.warmup_steps,
            f"{options.epochs} epochs are only {options.epochs * an_epoch} steps; leave some to measure",
        )
    return options.epochs * an_epoch

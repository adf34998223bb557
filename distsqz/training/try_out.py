"""Tries a model before anything starts: its memory order, and whether the strategies would train it
correctly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from distsqz.errors import InvalidValue, RequestError
from distsqz.models.registry import make_model, one_line
from distsqz.training.cell import Cell, memory_format, model_options
from distsqz.training.dry_run import DryRun, DryRunSettings, dry_run
from distsqz.training.options import TrainingOptions
from distsqz.training.seeding import seeded


@dataclass(frozen=True, kw_only=True)
class TriedModel:
    """A model that can be trained."""

    module: nn.Module
    """The model after one step. Parameters have their initial values; buffers may have changed."""
    result: DryRun
    options: TrainingOptions
    """Options of training, with contiguous memory if the model cannot be trained in channels_last."""
    notices: Sequence[str] = ()
    """A line about each thing that differs from the defaults."""


def try_out(
    model: str,
    options: TrainingOptions,
    reason: str,
    *,
    evaluates: bool,
    gpus: bool,
) -> TriedModel:
    """Builds a model and makes one training step with it, as in training.

    Args:
        model: a name of the registry, or package.module:factory.
        options: how it is trained; `num_classes` is what it is asked for.
        reason: what `num_classes` follows from.
        evaluates: whether accuracy is measured.
        gpus: whether workers train on GPUs; the step is made on one if this host has any. Where it has none,
            `try_cell` makes another step on a worker.

    Raises:
        RequestError: the model cannot be made or trained.
    """
    settings = _settings(options, evaluates, "cuda" if gpus and torch.cuda.is_available() else "cpu")
    attempt = _run_laid_out(model, options, settings)
    result, options = attempt.result, attempt.options
    if options.num_classes not in (None, result.outputs):
        hint = ""
        if not reason.startswith("`num_classes=") and result.outputs > (options.num_classes or 0):
            hint = f"; give `num_classes={result.outputs}` to train it as it is"
        raise InvalidValue(
            "model",
            model,
            f"returns {result.outputs} logits for an image, must return {options.num_classes} for "
            f"{reason}{hint}",
        )
    return attempt


def try_cell(cell: Cell, device: str) -> None:
    """Makes one training step with a planned cell's model on a device, `cpu` or `cuda`.

    Raises:
        RequestError: the model cannot be trained there.
    """
    evaluates = cell.options.evaluate != "never" and cell.open_data().validation is not None
    settings = _settings(cell.options, evaluates, device)
    module = cell.build()
    settings = replace(settings, memory_format=cell.memory_format(module))
    where = f"{cell.model} on {device}"
    with seeded(cell.options.seed):
        result = dry_run(module, settings, where)
    cell.strategy.refuse(result)


def _settings(options: TrainingOptions, evaluates: bool, device: str) -> DryRunSettings:
    assert options.image_size is not None
    return DryRunSettings(
        image_size=options.image_size,
        batch_size=min(2, options.batch_size),
        bf16=options.precision == "bf16",
        device=device,
        evaluates=evaluates,
    )


def _run_laid_out(model: str, options: TrainingOptions, settings: DryRunSettings) -> TriedModel:
    """Tries channels_last if the options ask for it, and contiguous memory if that fails."""
    try:
        return _run(model, options, settings)
    except _LayoutError as error:
        reason = str(error)
    tried = _run(model, replace(options, channels_last="off"), settings)
    if options.channels_last == "on":
        raise InvalidValue(
            "channels_last",
            "on",
            f"{model} can only be trained in contiguous memory ({reason}); leave the option out",
        )
    return replace(
        tried, notices=[f"{model}: is trained in contiguous memory, not in channels_last ({reason})"]
    )


class _LayoutError(RequestError):
    """A model failed in channels_last, perhaps because of the memory order."""


def _run(model: str, options: TrainingOptions, settings: DryRunSettings) -> TriedModel:
    """Makes a step with a newly built model."""
    with seeded(options.seed):
        module = make_model(model_options(model, options), options.num_classes)
        order = memory_format(module, options)
        try:
            result = dry_run(module, replace(settings, memory_format=order), model)
        except RequestError as error:
            if order is torch.contiguous_format:
                raise
            raise _LayoutError(one_line(error.__cause__ or error)) from error
    return TriedModel(module=module, result=result, options=options)

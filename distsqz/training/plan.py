"""From a request to a session's plan: what is wrong with a request is found here, before anything starts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from distsqz.compression.readers import read_state
from distsqz.errors import RequestError
from distsqz.models.registry import default_image_size, takes_metaparameters
from distsqz.models.weights import load_state
from distsqz.sync.flat import layout_of
from distsqz.training.cell import Cell, describe_cell, plan_cell
from distsqz.training.checkpoint import Checkpoint, load_checkpoint
from distsqz.training.options import ServerOptions, TrainingOptions
from distsqz.training.session import SessionPlan


def plan_session(
    models: Sequence[str],
    world_size: int,
    options: TrainingOptions,
    strategies: Sequence[ServerOptions | None] = (None,),
    checkpoint: Path | None = None,
    resume: Path | None = None,
) -> tuple[SessionPlan, list[dict[str, Any]]]:
    """Plans a session of one cell a model and strategy; gives it with the cells' entries for run.json.

    Args:
        models: registry names or `package.module:factory`.
        world_size: workers.
        options: how each model is trained.
        strategies: how replicas agree: through a parameter server, or None for all-reduce.
        checkpoint: a file of initial parameters, for a single model.
        resume: a checkpoint file or a run directory to go on from, for a single cell.

    Raises:
        RequestError: model, data, options or checkpoint do not make sense.
    """
    if not models:
        raise RequestError("--models: none given; name at least one, such as squeezenet alexnet")
    if len(set(models)) < len(models):
        raise RequestError(f"--models {' '.join(models)}: name each model once")
    if options.image_size is None:
        # One size for all: cells are compared where the model alone makes the difference.
        options = replace(options, image_size=max(map(default_image_size, models)))
    if checkpoint and resume:
        raise RequestError(
            f"--checkpoint {checkpoint}: --resume {resume} brings parameters of its own; give one of them"
        )
    cells, entries, weights = [], [], {}
    drawn: dict[str, dict[str, Any]] = {}  # initial parameters of models that ignore the seed, for all cells
    for model, strategy in itertools.product(models, strategies):
        server = strategy and _resolved(strategy, world_size)
        cell = plan_cell(model, world_size, _own_options(model, models, options), server)
        module = cell.build()
        if server:
            layout_of(module, server.shards, world_size)  # says what cannot be split over so many
        if checkpoint:
            load_state(module, read_state(checkpoint), checkpoint)
            weights[cell.name] = module.state_dict()
        elif not cell.is_reproducible(module):
            weights[cell.name] = drawn.setdefault(model, module.state_dict())
        cells.append(cell)
        entries.append(describe_cell(cell, module))
    state = _resumed(resume, cells[0], module) if resume else None
    if state:
        entries[0]["steps"] -= state.step
    return SessionPlan(cells=cells, weights=weights, resume=state), entries


def _own_options(model: str, models: Sequence[str], options: TrainingOptions) -> TrainingOptions:
    """The options without SqueezeNet's ratios where they are meant for another model beside it."""
    if takes_metaparameters(model) or not any(map(takes_metaparameters, models)):
        return options
    return replace(options, squeeze_ratio=None, pct_3x3=None)


def _resolved(server: ServerOptions, workers: int) -> ServerOptions:
    """The options with what follows from the number of workers."""
    server.check(workers)
    return replace(server, servers=server.servers or (workers if server.placement == "colocated" else 1))


def _resumed(path: Path, cell: Cell, module: nn.Module) -> Checkpoint:
    state = load_checkpoint(path, cell.name)
    asked = (cell.model, cell.num_classes, cell.world_size, cell.options.batch_size, cell.options.seed)
    saved = (state.model_name, state.num_classes, state.world_size, state.batch_size, state.seed)
    names = ("model", "num-classes", "workers", "batch-size", "seed")
    for name, wanted, found in zip(names, asked, saved, strict=True):
        if wanted != found:
            raise RequestError(
                f"--resume {path}: saved with --{name} {found}, not {wanted}; give --{name} {found}"
            )
    try:
        module.load_state_dict(state.model)
    except RuntimeError as error:
        raise RequestError(
            f"--resume {path}: not of this model ({str(error).splitlines()[-1].strip()})"
        ) from error
    if cell.total_steps - state.step <= cell.options.warmup_steps:
        raise RequestError(
            f"--resume {path}: stands at step {state.step} of {cell.total_steps}, which leaves nothing to "
            f"measure after --warmup-steps {cell.options.warmup_steps}; ask for more steps"
        )
    return state

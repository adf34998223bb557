"""From a request to a session's plan: what is wrong with a request is found here, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from distsqz.data import ImageData, absolute_spec, open_data
from distsqz.errors import RequestError
from distsqz.models.preprocessing import Preprocessing
from distsqz.models.registry import default_image_size, takes_metaparameters
from distsqz.models.weights import load_state, require_finite
from distsqz.sync.flat import layout_of
from distsqz.training.cell import Cell, describe_cell, model_options, plan_cell
from distsqz.training.checkpoint import Checkpoint, load_checkpoint
from distsqz.training.classes import settle_classes
from distsqz.training.options import ServerOptions, TrainingOptions
from distsqz.training.seeding import seeded
from distsqz.training.session import SessionPlan
from distsqz.training.try_out import try_out
from distsqz.weights.readers import read_state


def plan_session(
    models: Sequence[str],
    world_size: int,
    options: TrainingOptions,
    strategies: Sequence[ServerOptions | None] = (None,),
    checkpoint: Path | None = None,
    resume: Path | None = None,
    *,
    gpus: bool = False,
) -> tuple[SessionPlan, list[dict[str, Any]]]:
    """Plans a session of one cell a model and strategy; gives it with the cells' entries for run.json.

    Every model makes a training step here: one that cannot be trained is refused before anything starts.

    Args:
        models: registry names or `package.module:factory`.
        world_size: workers.
        options: how each model is trained.
        strategies: how replicas agree: through a parameter server, or None for all-reduce.
        checkpoint: a file of initial parameters, for a single model.
        resume: a checkpoint file or a run directory to go on from, for a single cell.
        gpus: whether workers train on GPUs.

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
    options = replace(options, data=absolute_spec(options.data))  # workers may stand elsewhere
    if checkpoint and resume:
        raise RequestError(
            f"--checkpoint {checkpoint}: --resume {resume} brings parameters of its own; give one of them"
        )
    state_dict, preprocessing = read_state(checkpoint) if checkpoint else ({}, None)
    data = _open_data(options)
    own_options = {model: _own_options(model, models, options) for model in models}
    with seeded(options.seed):
        classes = settle_classes(
            [model_options(model, own_options[model]) for model in models], options.num_classes, data
        )
    servers = [strategy and _resolved(strategy, world_size) for strategy in strategies]
    cells, entries, notices = [], [], [*classes.notices, *([data.left_out] if data.left_out else [])]
    weights, state = {}, None
    drawn: dict[str, Any] = {}  # initial parameters of models that ignore the seed, for all cells; else None
    for model in models:
        asked = replace(own_options[model], num_classes=classes.asked[model])
        tried = try_out(model, asked, servers, classes.reason, evaluates=_evaluates(asked, data), gpus=gpus)
        notices += tried.notices
        if checkpoint:
            load_state(tried.module, state_dict, checkpoint)
        elif not resume:
            require_finite(tried.module, "model", model)
        for server in servers:
            cell = plan_cell(model, world_size, tried.options, data, tried.result.outputs, server)
            if server:
                layout_of(tried.module, server.shards, world_size)  # says what cannot be split over so many
            if checkpoint:
                cell = replace(cell, preprocessing=preprocessing)  # the weights' own
                weights[cell.name] = tried.module.state_dict()
            elif not resume and model not in drawn:
                drawn[model] = None if cell.is_reproducible() else cell.build().state_dict()
            if not checkpoint and drawn.get(model):
                weights[cell.name] = drawn[model]
            cells.append(cell)
            entries.append(describe_cell(cell, tried.module))
        if resume:
            state = _resumed(resume, cells[0], tried.module)
            entries[0]["steps"] -= state.step
            if state.preprocessing:
                cells[0] = replace(cells[0], preprocessing=Preprocessing(**state.preprocessing))
    return SessionPlan(cells=cells, weights=weights, resume=state, notices=notices), entries


def _open_data(options: TrainingOptions) -> ImageData:
    assert options.image_size is not None
    return open_data(
        options.data, image_size=options.image_size, seed=options.seed, num_classes=options.num_classes
    )


def _evaluates(options: TrainingOptions, data: ImageData) -> bool:
    return data.validation is not None and options.evaluate != "never"


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
    require_finite(module, "resume", path)
    if cell.total_steps - state.step <= cell.options.warmup_steps:
        raise RequestError(
            f"--resume {path}: stands at step {state.step} of {cell.total_steps}, which leaves nothing to "
            f"measure after --warmup-steps {cell.options.warmup_steps}; ask for more steps"
        )
    return state

"""Makes a session's plan from a request, and refuses what is wrong with the request before anything
starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from distsqz.data import ImageData, absolute_spec, open_data
from distsqz.errors import InvalidValue
from distsqz.models.preprocessing import Preprocessing
from distsqz.models.registry import METAPARAMETERS, default_image_size, takes_metaparameters
from distsqz.models.weights import load_state, require_finite
from distsqz.runs.cell_spec import CellSpec, session_names
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.alone.strategy import Alone
from distsqz.strategies.parameter_server.flat import layout_of
from distsqz.strategies.strategy import Strategy
from distsqz.training.cell import Cell, describe_cell, model_options, plan_cell
from distsqz.training.checkpoint import Checkpoint, load_checkpoint
from distsqz.training.classes import Classes, settle_classes
from distsqz.training.memory_needs import MemoryNeeds, memory_needs
from distsqz.training.options import TrainingOptions
from distsqz.training.seeding import seeded
from distsqz.training.session import SessionPlan
from distsqz.training.try_out import TriedModel, try_out
from distsqz.training.variants import Variant, Vary, for_baseline, not_multiplied, variants
from distsqz.weights.readers import read_state


def plan_session(
    models: Sequence[str],
    world_size: int,
    options: TrainingOptions,
    strategies: Sequence[Strategy] = (AllReduce(),),
    checkpoint: Path | None = None,
    resume: Path | None = None,
    *,
    vary: Vary | None = None,
    gpus: bool = False,
    baseline: bool = False,
) -> tuple[SessionPlan, list[dict[str, Any]]]:
    """Plans a session of one cell for each model, strategy and variant. Returns the plan and the cells'
    entries for run.json.

    Every model makes a training step here: one that cannot be trained is refused before anything starts.

    Args:
        models: registry names or `package.module:factory`.
        world_size: workers.
        options: how each model is trained.
        strategies: how replicas agree, with the options of each.
        checkpoint: a file of initial parameters, for a single model.
        resume: a checkpoint file or a run directory to go on from, for a single cell.
        vary: values of options of training or of strategies; all combinations are measured. Where
            an option has no effect on a model or a strategy, cells that would be alike are planned once.
        gpus: whether workers train on GPUs.
        baseline: whether each model is also trained on one worker alone (`training/baseline.py`).

    Raises:
        RequestError: model, data, options or checkpoint do not make sense.
    """
    if not models:
        raise InvalidValue("models", None, "none given; name at least one, such as squeezenet alexnet")
    if len(set(models)) < len(models):
        raise InvalidValue("models", " ".join(models), "name each model once")
    if checkpoint and resume:
        raise InvalidValue(
            "checkpoint", checkpoint, f"`resume={resume}` brings parameters of its own; give one of them"
        )
    if resume and (len(models) > 1 or len(strategies) > 1 or vary):
        raise InvalidValue(
            "resume", resume, "a checkpoint is resumed by a single cell, and several are asked for"
        )
    planner = _Planner(models, world_size, _Start.from_files(checkpoint, resume), gpus, baseline)
    planner.notices += not_multiplied(vary or {}, models, strategies)
    for variant in variants(options, strategies, vary or {}):
        planner.add(variant)
    planned = _named(sorted(planner.planned.values(), key=lambda each: models.index(each.cell.model)))
    session = SessionPlan(
        cells=[each.cell for each in planned],
        weights={each.cell.name: each.weights for each in planned if each.weights},
        resume=planned[0].resume,
        notices=list(dict.fromkeys(planner.notices)),
        memory_needs=[each.memory for each in planned],
    )
    return session, [each.entry for each in planned]


@dataclass(frozen=True, kw_only=True)
class _Start:
    """Files that training starts from, if any."""

    checkpoint: Path | None = None
    state_dict: Mapping[str, Any] = field(default_factory=dict)
    """Parameters and buffers in `checkpoint`."""
    preprocessing: Preprocessing | None = None
    """How images are prepared for the parameters in `checkpoint`, if it specifies that."""
    resume: Path | None = None

    @classmethod
    def from_files(cls, checkpoint: Path | None, resume: Path | None) -> _Start:
        if checkpoint is None:
            return cls(resume=resume)
        state_dict, preprocessing = read_state(checkpoint)
        return cls(checkpoint=checkpoint, state_dict=state_dict, preprocessing=preprocessing)


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A planned cell."""

    cell: Cell
    entry: dict[str, Any]
    memory: MemoryNeeds
    weights: dict[str, Any] | None = None
    """Initial parameters, if they do not follow from the seed."""
    resume: Checkpoint | None = None


def _named(planned: Sequence[_Planned]) -> list[_Planned]:
    """Gives the cells their names in the session."""
    names = session_names([each.cell.spec for each in planned])
    return [
        replace(each, cell=replace(each.cell, label=name), entry=each.entry | {"cell": name})
        for each, name in zip(planned, names, strict=True)
    ]


class _Planner:
    """Plans cells variant by variant. Work that variants have in common is done once."""

    def __init__(
        self, models: Sequence[str], world_size: int, start: _Start, gpus: bool, baseline: bool
    ) -> None:
        self.planned: dict[str, _Planned] = {}
        """Planned cells by id."""
        self.notices: list[str] = []
        self._models = models
        self._world_size = world_size
        self._start = start
        self._gpus = gpus
        self._baseline = baseline
        self._tried: dict[object, TriedModel] = {}
        self._drawn: dict[object, dict[str, Any] | None] = {}
        """Initial parameters of models that ignore the seed, for all cells; None for the others."""

    def add(self, variant: Variant) -> None:
        """Adds the cells of a variant that are not planned yet.

        Raises:
            RequestError: one of them does not make sense.
        """
        requested = replace(variant.training, data=absolute_spec(variant.training.data))
        # Workers may stand elsewhere, hence the absolute path. One image size for all: cells are compared
        # where the model alone makes the difference.
        image_size = requested.image_size or max(map(default_image_size, self._models))
        options = replace(requested, image_size=image_size)
        data = _open_data(options)
        settled = [each.settled(self._world_size) for each in variant.strategies]
        with seeded(options.seed):
            of_models = [
                model_options(model, _own_options(model, self._models, options)) for model in self._models
            ]
            classes = settle_classes(of_models, options.num_classes, data)
        self.notices += [*classes.notices, *([data.left_out] if data.left_out else [])]
        for model in self._models:
            of_model = _own_options(model, self._models, requested)
            specs: dict[CellSpec, Strategy] = {
                self._spec(model, of_model, asked): strategy
                for asked, strategy in zip(variant.strategies, settled, strict=True)
            }
            if self._baseline:
                specs[_baseline_spec(model, of_model)] = Alone()
            new = {spec: strategy for spec, strategy in specs.items() if spec.id not in self.planned}
            if new:
                settled_options = replace(of_model, image_size=image_size, num_classes=classes.asked[model])
                self._add_model(model, settled_options, new, classes, data)

    def _spec(self, model: str, options: TrainingOptions, strategy: Strategy) -> CellSpec:
        return CellSpec(
            model=model,
            strategy=strategy.name,
            world_size=self._world_size,
            training=options,
            strategy_options=strategy.options,
        )

    def _add_model(
        self,
        model: str,
        options: TrainingOptions,
        specs: Mapping[CellSpec, Strategy],
        classes: Classes,
        data: ImageData,
    ) -> None:
        tried = self._try(model, options, classes.reason, data)
        start = self._start
        if start.checkpoint:
            load_state(tried.module, start.state_dict, start.checkpoint)
        elif not start.resume:
            require_finite(tried.module, "model", model)
        for spec, strategy in specs.items():
            of_cell = tried.options
            if strategy.is_baseline:
                of_cell = _only_timed(baseline_options(of_cell))
            strategy.refuse(tried.result)
            strategy.refuse_training(of_cell)
            cell = plan_cell(spec, of_cell, data, tried.result.outputs, strategy)
            if cell.server:
                # Raises where the model cannot be split over so many.
                layout_of(tried.module, cell.server.shards, self._world_size)
            self.planned[cell.name] = self._start_of(cell, tried.module, data)

    def _start_of(self, cell: Cell, module: nn.Module, data: ImageData) -> _Planned:
        """Plans one cell with its initial parameters."""
        weights, state = None, None
        if self._start.checkpoint:
            cell = replace(cell, preprocessing=self._start.preprocessing)
            weights = module.state_dict()
        elif self._start.resume:
            state = _resumed(self._start.resume, cell, module)
            if state.preprocessing:
                cell = replace(cell, preprocessing=Preprocessing(**state.preprocessing))
        else:
            weights = self._draw(cell)
        entry = describe_cell(cell, module)
        if state:
            entry["steps"] -= state.step
        memory = memory_needs(cell, module, data)
        return _Planned(cell=cell, entry=entry, weights=weights, resume=state, memory=memory)

    def _draw(self, cell: Cell) -> dict[str, Any] | None:
        """Initial parameters shared by all cells that build the same model, if the seed does not determine
        them.
        """
        options = cell.options
        same = (model_options(cell.model, options), options.num_classes, options.seed)
        if same not in self._drawn:
            self._drawn[same] = None if cell.is_reproducible() else cell.build().state_dict()
        return self._drawn[same]

    def _try(
        self,
        model: str,
        options: TrainingOptions,
        reason: str,
        data: ImageData,
    ) -> TriedModel:
        """Tries a model with one training step; once for all options under which it trains alike."""
        evaluates = _evaluates(options, data)
        trial = (
            model_options(model, options),
            options.num_classes,
            options.seed,
            options.precision,
            options.channels_last,
            min(2, options.batch_size),
            evaluates,
        )
        if trial not in self._tried:
            tried = try_out(model, options, reason, evaluates=evaluates, gpus=self._gpus)
            self.notices += tried.notices
            self._tried[trial] = tried
        tried = self._tried[trial]
        return replace(tried, options=replace(options, channels_last=tried.options.channels_last))


def _open_data(options: TrainingOptions) -> ImageData:
    assert options.image_size is not None
    return open_data(
        options.data, image_size=options.image_size, seed=options.seed, num_classes=options.num_classes
    )


def _evaluates(options: TrainingOptions, data: ImageData) -> bool:
    return data.validation is not None and options.evaluate != "never"


MOST_BASELINE_STEPS = 100


def baseline_options(options: TrainingOptions) -> TrainingOptions:
    """The options of a model's baseline: at most `MOST_BASELINE_STEPS` steps, in blocks as long as those of
    the cells that are compared with it.
    """
    options = for_baseline(options)
    if options.steps <= MOST_BASELINE_STEPS:
        return options
    return replace(options, steps=MOST_BASELINE_STEPS, block_steps=options.block)


def _only_timed(options: TrainingOptions) -> TrainingOptions:
    """The options, with nothing but training switched on."""
    return replace(options, evaluate="never", checkpoint_every=0, metered=False)


def _baseline_spec(model: str, options: TrainingOptions) -> CellSpec:
    return CellSpec(model=model, strategy=Alone.name, world_size=1, training=baseline_options(options))


def _own_options(model: str, models: Sequence[str], options: TrainingOptions) -> TrainingOptions:
    """The options without SqueezeNet's ratios for other models in a session that has a SqueezeNet."""
    if takes_metaparameters(model) or not any(map(takes_metaparameters, models)):
        return options
    by_default: dict[str, Any] = dict.fromkeys(METAPARAMETERS)
    return replace(options, **by_default)


_FIELDS = {"world_size": "workers"}
"""Options whose name differs from the key of a cell that they set."""


def _resumed(path: Path, cell: Cell, module: nn.Module) -> Checkpoint:
    key = cell.spec.resume_key()
    state = load_checkpoint(path, cell.name, key)
    for name, (saved, wanted) in state.differences(key).items():
        if name == "strategy":
            raise InvalidValue("resume", path, f"trained under {saved}, not {wanted}; go on under {saved}")
        option = _FIELDS.get(name, name)
        advice = f"leave `{option}` out" if saved is None else f"give `{option}={saved}`"
        raise InvalidValue("resume", path, f"saved with `{option}={saved}`, not {wanted}; {advice}")
    try:
        module.load_state_dict(state.model)
    except RuntimeError as error:
        raise InvalidValue(
            "resume", path, f"not of this model ({str(error).splitlines()[-1].strip()})"
        ) from error
    require_finite(module, "resume", path)
    if cell.total_steps - state.step <= cell.options.warmup_steps:
        raise InvalidValue(
            "resume",
            path,
            f"stands at step {state.step} of {cell.total_steps}, which leaves nothing to measure after "
            f"`warmup_steps={cell.options.warmup_steps}`; ask for more steps",
        )
    return state

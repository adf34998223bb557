"""One training step of a model before anything starts, to find what would fail in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distsqz.errors import InvalidValue, name_some
from distsqz.models.registry import one_line, require_trainable
from distsqz.strategies.agreement import state_digests
from distsqz.strategies.strategy import Tried
from distsqz.training.memory_order import lay_out


@dataclass(frozen=True, kw_only=True)
class DryRunSettings:
    """Settings of the step, the same as in training."""

    image_size: int
    batch_size: int = 2
    """Number of images. Batch norm needs more than one value for each channel, so 1 is only for training with
    1."""
    memory_format: torch.memory_format = torch.contiguous_format
    bf16: bool = False
    """Whether the forward pass runs under bf16 autocast."""
    device: str = "cpu"
    evaluates: bool = True
    """Whether training measures accuracy; if so, the model is also tried in evaluation mode."""


@dataclass(frozen=True, kw_only=True)
class DryRun(Tried):
    """Result of one training step."""

    outputs: int
    """Number of logits that the model returns for an image."""


def dry_run(module: nn.Module, settings: DryRunSettings, model: str) -> DryRun:
    """Runs a forward and a backward pass on noise, in training mode.

    The module is moved, laid out and perhaps changed by its own forward pass (running averages): give one
    that is not trained afterwards. It ends on the CPU, without gradients.

    Args:
        module: a model of images [N, 3, S, S] to logits [N, classes].
        settings: how the step is made.
        model: the model's name in errors.

    Raises:
        InvalidValue: the model cannot be trained, whatever the strategy.
    """
    require_trainable(module, model)
    try:
        module.to(settings.device)
    except Exception as error:
        raise InvalidValue(
            "model", model, f"cannot be moved to {settings.device} ({one_line(error)})"
        ) from error
    lay_out(module, settings.memory_format)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two images are quicker so, by far where other processes use the cores
    try:
        return _step(module.train(), settings, model)
    finally:
        torch.set_num_threads(threads)
        module.zero_grad(set_to_none=True)
        module.train().to("cpu")


def _step(module: nn.Module, settings: DryRunSettings, model: str) -> DryRun:
    parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
    before = dict(module.named_parameters())
    _refuse(model, "complex parameters", (name for name, each in parameters.items() if each.is_complex()))
    places = {name: each.data_ptr() for name, each in parameters.items()}
    values = state_digests(module)
    images = torch.randn(settings.batch_size, 3, settings.image_size, settings.image_size)
    images = images.to(settings.device, memory_format=settings.memory_format)
    with _counted_gradients(parameters) as gradients:
        logits = _logits(module, images, settings, model)
        moved = tuple(name for name, each in parameters.items() if each.data_ptr() != places[name])
        _refuse_new_parameters(before, dict(module.named_parameters()), model)
        labels = torch.arange(len(logits), device=logits.device) % logits.shape[1]
        try:
            F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            raise InvalidValue("model", model, f"fails in the backward pass ({one_line(error)})") from error
    changed = {name for name, digest in state_digests(module).items() if values.get(name) != digest}
    sparse = (name for name, each in parameters.items() if each.grad is not None and each.grad.is_sparse)
    _refuse(model, "sparse gradients", sparse)
    if settings.evaluates:
        _check_evaluation(module.eval(), images, logits.shape[1], settings, model)
    return DryRun(
        model=model,
        outputs=logits.shape[1],
        unused=tuple(name for name in parameters if not gradients[name]),
        repeated=tuple(name for name in parameters if gradients[name] > 1),
        moved=moved,
        written=tuple(name for name in parameters if name in changed and name not in moved),
    )


@contextmanager
def _counted_gradients(parameters: dict[str, nn.Parameter]) -> Iterator[Counter[str]]:
    """Counts the gradients that are accumulated into each parameter."""
    count: Counter[str] = Counter()
    hooks = [
        parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            lambda _, name=name: count.update([name])
        )
        for name, parameter in parameters.items()
    ]
    yield count
    for hook in hooks:
        hook.remove()


def _logits(module: nn.Module, images: Tensor, settings: DryRunSettings, model: str) -> Tensor:
    mode = "training" if module.training else "evaluation"
    try:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.bf16):
            output = module(images)
    except Exception as error:
        raise InvalidValue(
            "model",
            model,
            f"fails on images of shape {list(images.shape)} in {mode} mode ({one_line(error)}); "
            "it must take that shape, whose size `image_size` sets",
        ) from error
    if not isinstance(output, Tensor):
        raise InvalidValue(
            "model", model, f"returns {type(output).__name__} in {mode} mode, must return a tensor of logits"
        )
    if output.ndim != 2 or len(output) != len(images) or not output.is_floating_point():
        raise InvalidValue(
            "model",
            model,
            f"returns {output.dtype} of shape {list(output.shape)} for {len(images)} images in "
            f"{mode} mode, must return real logits [{len(images)}, classes]",
        )
    return output if output.dtype == torch.float64 else output.float()


def _check_evaluation(
    module: nn.Module, images: Tensor, outputs: int, settings: DryRunSettings, model: str
) -> None:
    with torch.no_grad():
        logits = _logits(module, images, settings, model)
    if logits.shape[1] != outputs:
        raise InvalidValue(
            "model",
            model,
            f"returns {logits.shape[1]} logits for an image in evaluation mode and {outputs} in "
            "training mode; must return as many in both",
        )


def _refuse(model: str, fault: str, names: Iterable[str]) -> None:
    if named := [*names]:
        raise InvalidValue(
            "model",
            model,
            f"has {fault} ({name_some(named)}); only real parameters with dense gradients can be trained",
        )


def _refuse_new_parameters(
    before: dict[str, nn.Parameter], after: dict[str, nn.Parameter], model: str
) -> None:
    """Refuses parameters that the forward pass has put in: optimizers have those from before it."""
    changed = [name for name in before | after if before.get(name) is not after.get(name)]
    if changed:
        raise InvalidValue(
            "model",
            model,
            f"its forward pass makes or replaces parameters ({name_some(changed)}), which no "
            "optimizer would know of; make them in __init__ and change their values in place",
        )

"""The number of classes of a session's models: the user's, the data set's or a model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distsqz.data import ImageData
from distsqz.errors import InvalidValue
from distsqz.models.registry import ModelOptions, class_default, is_rebuilt_for, own_classes


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The number of classes that each model is built for."""

    asked: Mapping[str, int | None]
    """Number of classes by model; None keeps a model's own number."""
    reason: str
    """Where the number comes from, as errors name it."""
    notices: Sequence[str] = ()
    """A line for each model that is built with another number than its default although the user gave
    none."""


def settle_classes(models: Sequence[ModelOptions], num_classes: int | None, data: ImageData) -> Classes:
    """Chooses the number that the user gave, else the data set's, else that of a user's own model.

    Synthetic images can have any number of classes: they get as many as an own model has by itself, and so do
    the models beside it, because cells are compared on the same data.

    Args:
        models: of the session.
        num_classes: what the user asked for.
        data: the images to train on.

    Raises:
        InvalidValue: a model cannot be made, or two of them have different numbers by themselves.
    """
    names = [model.model for model in models]
    if num_classes is not None:
        return Classes(asked=dict.fromkeys(names, num_classes), reason=f"`num_classes={num_classes}`")
    if data.name != "synthetic":
        asked = data.num_classes
        return Classes(
            asked=dict.fromkeys(names, asked),
            reason=f"the {asked} classes of {data.name}",
            notices=[_rebuilt(name, data) for name in names if is_rebuilt_for(name, asked)],
        )
    own = {model.model: count for model in models if (count := own_classes(model)) is not None}
    if len(set(own.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in own.items())
        raise InvalidValue("models", None, f"{counts} classes; give one number for all, `num_classes`")
    common = next(iter(own.values()), data.num_classes)
    others = [name for name in names if name not in own]
    return Classes(
        asked={name: None if name in own else common for name in names},
        reason="`data=synthetic`",
        notices=[f"{name}: built for {common} classes, as {next(iter(own))} has" for name in others if own],
    )


def _rebuilt(name: str, data: ImageData) -> str:
    default = class_default(name)
    own = "" if default is None else f"; its own default is {default}"
    return f"{name}: built with num_classes={data.num_classes}, as many classes as {data.name} has{own}"

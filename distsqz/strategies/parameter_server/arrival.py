"""Parameters that arrive from the network: reads wait for them, and writes by the model are detected."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class ParameterWrittenError(RuntimeError):
    """The model changed one of its parameters, which only the shards of a parameter server may do."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the model itself changes its parameter {name}, and a parameter server would undo that; "
            "train it with all-reduce"
        )


class ServedParameter(nn.Parameter):
    """A parameter in the network's memory that counts the model's writes to it, those through `.data` too.

    In torch, the tensor that `.data` returns has its own version counter; here all such tensors share one.
    """

    _alias: torch.Tensor
    """The tensor of which `.data` returns views."""

    @staticmethod
    def adopt(parameter: nn.Parameter, place: torch.Tensor) -> None:
        """Turns `parameter` into a served parameter that lies in `place`; it remains the same object."""
        kind = type(parameter)
        own = ServedParameter if kind is nn.Parameter else type(kind.__name__, (ServedParameter, kind), {})
        parameter.__class__ = own
        parameter.data = place.data  # not `place`, which shares a version counter with the other parameters

    @property
    def writes(self) -> int:
        """Number of operations that have written to the parameter, without what the network received."""
        return self._version + self._alias._version

    @property
    def data(self) -> torch.Tensor:
        """The values without gradient history, in the same memory."""
        return self._alias.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self._alias = value.detach()

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        """Copies as a plain parameter, because nothing arrives in a copy."""
        if id(self) not in memo:
            memo[id(self)] = nn.Parameter(self._alias.clone(), self.requires_grad)
        copied: nn.Parameter = memo[id(self)]
        return copied


class ArrivingParameters(dict[str, nn.Parameter | None]):
    """A module's parameters by name. Access to one waits until its values have arrived.

    Every access to a parameter as an attribute uses this dict: in forward(), in hooks of any kind, in
    parametrizations, and by other modules.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter | None],
        wait: Callable[[nn.Parameter], None],
        refuse_loss: Callable[[nn.Parameter], None],
    ) -> None:
        """Holds the same parameters as a plain dict.

        Args:
            parameters: the parameters of one module.
            wait: called with a parameter before it is returned.
            refuse_loss: called with a parameter that is deleted or replaced by another one.
        """
        super().__init__(parameters)
        self._wait = wait
        self._refuse_loss = refuse_loss

    def __getitem__(self, name: str) -> nn.Parameter | None:
        parameter = super().__getitem__(name)
        if parameter is not None:
            self._wait(parameter)
        return parameter

    def __setitem__(self, name: str, parameter: nn.Parameter | None) -> None:
        before = super().get(name)
        if before is not None and before is not parameter:
            self._refuse_loss(before)
        super().__setitem__(name, parameter)

    def __delitem__(self, name: str) -> None:
        before = super().get(name)
        if before is not None:
            self._refuse_loss(before)
        super().__delitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The parameter, or `default` if there is none with this name."""
        return self[name] if name in self else default  # noqa: SIM401

    def items(self) -> Any:
        """Names and parameters; waits for each parameter."""
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        """Parameters; waits for each of them."""
        return [self[name] for name in self]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies as a plain dict, because nothing arrives in a copy."""
        return dict, (dict(super().items()),)

    @classmethod
    def install(
        cls,
        module: nn.Module,
        wait: Callable[[nn.Parameter], None],
        refuse_loss: Callable[[nn.Parameter], None],
    ) -> list[nn.Module]:
        """Replaces the parameter dict of every submodule; returns the submodules that were changed."""
        parts = [part for part in module.modules() if part._parameters and type(part._parameters) is dict]
        for part in parts:
            part._parameters = cls(part._parameters, wait, refuse_loss)
        return parts

    @classmethod
    def remove(cls, parts: Iterable[nn.Module]) -> None:
        """Undoes `install`."""
        for part in parts:
            if isinstance(part._parameters, cls):
                part._parameters = dict(dict.items(part._parameters))


class FirstForward(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Observes which parameters a model's first forward pass uses without attribute access.

    After the pass, `unannounced` holds the parameters that were read without attribute access (through a list
    or a closure), and `detached` those that were read through a tensor without gradient. The backward pass
    may need the values of the latter after their own gradients are complete.
    """

    def __init__(self, flat: torch.Tensor, starts: Sequence[int], names: Sequence[str]) -> None:
        """Prepares for parameters that lie in one buffer.

        Args:
            flat: the buffer that holds all parameters.
            starts: first element of each parameter in the buffer, ascending.
            names: names of the parameters, for errors.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._storage = flat.untyped_storage().data_ptr()
        self._starts = starts
        self._names = names
        self._announced: set[int] = set()
        self.unannounced: set[int] = set()
        self.detached: set[int] = set()

    def announce(self, index: int) -> None:
        """Records that a parameter was accessed as an attribute."""
        self._announced.add(index)

    @property
    def unseen(self) -> set[int]:
        """Parameters that the pass has neither accessed nor read."""
        return set(range(len(self._starts))) - self._announced - self.unannounced

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Records the parameters that an operation reads, and runs it.

        Raises:
            ParameterWrittenError: the operation writes to a parameter.
        """
        for argument, value in _arguments(func, args, kwargs or {}):
            for tensor in tree_leaves(value):
                if isinstance(tensor, torch.Tensor) and self._is_ours(tensor):
                    self._note(tensor, writes=bool(argument.alias_info and argument.alias_info.is_write))
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def _is_ours(self, tensor: torch.Tensor) -> bool:
        return (
            tensor.layout is torch.strided
            and tensor.numel() > 0
            and tensor.untyped_storage().data_ptr() == self._storage
        )

    def _note(self, tensor: torch.Tensor, *, writes: bool) -> None:
        index = bisect.bisect(self._starts, int(tensor.storage_offset())) - 1
        if writes:
            raise ParameterWrittenError(self._names[index])
        if index not in self._announced:
            self.unannounced.add(index)
        if torch.is_grad_enabled() and not tensor.requires_grad:
            self.detached.add(index)


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Arguments of an operation by its schema, with their values."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.name in kwargs:
            yield argument, kwargs[argument.name]
        elif position < len(args):
            yield argument, args[position]

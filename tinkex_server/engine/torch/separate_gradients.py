"""`SeparateGradients`: gradients that are computed apart from those that a model has."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TypeAlias

from torch import nn


class SeparateGradients:
    """The gradients of parameters from now on. The existing ones are set aside until either `add`
    or `drop` is called, once.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._before = [(parameter, parameter.grad) for parameter in parameters]
        for parameter, _ in self._before:
            parameter.grad = None

    def add(self) -> None:
        """Adds the new gradients to the existing ones."""
        for parameter, gradient in self._before:
            if gradient is not None:
                parameter.grad = (
                    gradient if parameter.grad is None else gradient.add_(parameter.grad)
                )

    def drop(self) -> None:
        """Restores the existing gradients without the new ones."""
        for parameter, gradient in self._before:
            parameter.grad = gradient


Keep: TypeAlias = Callable[[SeparateGradients], None]
"""A function that takes over gradients that were computed without an error."""


@contextmanager
def atomic_gradients(
    parameters: Iterable[nn.Parameter], keep: Keep = SeparateGradients.add
) -> Generator[None, None, None]:
    """Hands the gradients computed in the block to `keep`, which adds them to the existing ones, or
    drops them if the block fails.
    """
    gradients = SeparateGradients(parameters)
    try:
        yield
    except BaseException:
        gradients.drop()
        raise
    keep(gradients)

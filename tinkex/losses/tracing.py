"""Turns a function in torch into a graph that a server can run.

`trace` calls the function once, with torch.fx proxies that record the operations on them. The
`Tracer` of torch.fx is not used: it replaces methods of torch in the whole process while it runs,
and other threads may be computing. This module needs torch, so it is imported only when a loss is
made.
"""

# torch.fx has few type annotations
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
import math
import re
import traceback
import types
from collections.abc import Mapping
from typing import Any

import torch
from tinkex_api.models import CustomLossInput
from torch import fx
from torch.fx.node import map_aggregate
from torch.fx.proxy import GraphAppendingTracer, TraceError

from tinkex.errors import InvalidInputError
from tinkex.losses.graph import Unwritable, function_name, write_argument, write_graph
from tinkex.losses.handle import (
    LOGPROBS,
    METRIC_NAME,
    PerDatumLossFn,
    Rank,
    TracedLoss,
    check_scalars,
)

_MAX_INPUTS = 16
_INPUT_NAME = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_LEAVING_TORCH = frozenset({"backward", "item", "numpy", "tolist"})
_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "T", "mT", "values", "indices"})
_TRIAL_SIZES = (4, 3)  # sizes of the first and the second dimension of trial inputs


def trace(fn: PerDatumLossFn, input_ranks: Mapping[str, Rank]) -> TracedLoss:
    """Returns the operations of `fn` as a graph. Calls `fn` without data.

    Raises:
        InvalidInputError: `fn` or `input_ranks` breaks a rule. The message names the rule, and the
            line.
    """
    name = getattr(fn, "__name__", type(fn).__name__)
    inputs = _inputs(fn, name, input_ranks)
    graph = fx.Graph()
    tracer = _LossTracer(graph)
    proxies = [tracer.proxy(graph.placeholder(loss_input.name)) for loss_input in inputs]
    result = _call(_with_traced_math(fn, tracer), name, proxies)
    graph.output(tracer.create_arg(_checked_result(result, name)))
    run = fx.GraphModule({}, graph).forward  # the module itself prints errors
    _try(run, name, inputs)
    return TracedLoss(name=name, inputs=inputs, graph=write_graph(graph), run=run)


class _Forbidden(Exception):
    """An operation of the function that a graph cannot express."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class _LossTracer(GraphAppendingTracer):
    """A tracer that refuses operations no server could run, so that the error names their line."""

    def create_node(
        self,
        kind: str,
        target: Any,
        args: Any,
        kwargs: Any,
        name: str | None = None,
        type_expr: Any = None,
    ) -> fx.Node:
        if kind == "call_function":
            _check_function(target, args)
        if kind == "call_method" and target in _LEAVING_TORCH:
            raise _Forbidden(
                f"calls .{target}(), which leaves torch",
                "Use tensors throughout; the gradient is computed for you.",
            )
        map_aggregate((args, kwargs), _check_argument)
        return super().create_node(kind, target, args, kwargs, name, type_expr)


def _check_function(function: Any, args: Any) -> None:
    if function is getattr and args[1] not in _ATTRIBUTES:
        raise _Forbidden(
            f"reads the attribute .{args[1]}",
            f"Allowed are {', '.join(sorted(_ATTRIBUTES))}, and methods.",
        )
    if function_name(function) is None:
        message = (
            f"calls {getattr(function, '__qualname__', function)!r}, which is not a function of "
            "torch, math or operator"
        )
        raise _Forbidden(message, "Use functions of torch.")


def _check_argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        raise _Forbidden(
            f"uses a tensor of shape {list(value.shape)} that is not one of its inputs",
            "Make it an input or a Python number, or derive it from an input, for example with "
            "torch.zeros_like(logprobs).",
        )
    try:
        write_argument(value)
    except Unwritable as error:
        raise _Forbidden(
            f"uses {error}, which cannot be sent",
            "Use numbers, strings, lists, slices and torch's dtypes.",
        ) from error
    return value


def _inputs(
    fn: PerDatumLossFn, name: str, input_ranks: Mapping[str, Rank]
) -> list[CustomLossInput]:
    parameters = list(inspect.signature(fn).parameters.values())
    for parameter in parameters:
        _check_parameter(parameter, name)
    names = [parameter.name for parameter in parameters]
    if not names or names[0] != LOGPROBS or len(names) > _MAX_INPUTS:
        raise InvalidInputError(
            f"the custom loss {name} takes {names}: the first parameter must be {LOGPROBS!r}, and "
            f"there may be at most {_MAX_INPUTS}"
        )
    if set(input_ranks) != set(names):
        raise InvalidInputError(
            f"input_ranks has {sorted(input_ranks)}, and the custom loss {name} takes {names}: "
            "they must agree"
        )
    for parameter, rank in input_ranks.items():
        allowed = (1, 2) if parameter == LOGPROBS else (0, 1, 2)
        if rank not in allowed:
            raise InvalidInputError(
                f"input_ranks[{parameter!r}] is {rank!r}, not one of {', '.join(map(str, allowed))}"
            )
    return [CustomLossInput(parameter, input_ranks[parameter]) for parameter in names]


def _check_parameter(parameter: inspect.Parameter, name: str) -> None:
    where = f"the parameter {parameter.name!r} of the custom loss {name}"
    if parameter.kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise InvalidInputError(f"{where} is not an ordinary positional one")
    if parameter.default is not inspect.Parameter.empty:
        raise InvalidInputError(
            f"{where} has a default", advice="Write the value into the function instead."
        )
    if not _INPUT_NAME.fullmatch(parameter.name):
        raise InvalidInputError(
            f"{where} must consist of at most 64 of a-z, 0-9 and _, and not begin with a digit"
        )


def _with_traced_math(fn: PerDatumLossFn, tracer: _LossTracer) -> PerDatumLossFn:
    """Returns the function with a `math` module that accepts proxies.

    Python's own accepts only real numbers.
    """
    if not inspect.isfunction(fn):
        return fn
    names = {
        name: _TracedMath(tracer) if value is math else value
        for name, value in fn.__globals__.items()
    }
    return types.FunctionType(fn.__code__, names, fn.__name__, fn.__defaults__, fn.__closure__)


class _TracedMath:
    """The module math, with functions that are recorded when they are given a proxy."""

    def __init__(self, tracer: _LossTracer) -> None:
        self._tracer = tracer

    def __getattr__(self, name: str) -> Any:
        value = getattr(math, name)
        if not callable(value):
            return value

        def function(*args: Any) -> Any:
            given = any(isinstance(argument, fx.Proxy) for argument in args)
            return (
                self._tracer.create_proxy("call_function", value, args, {})
                if given
                else value(*args)
            )

        return function


def _call(fn: PerDatumLossFn, name: str, proxies: list[fx.Proxy]) -> Any:
    """Returns what `fn` returns. Raises `InvalidInputError`, naming the line, if `fn` fails."""
    try:
        return fn(*proxies)
    except Exception as error:
        message, advice = _explained(error)
        raise InvalidInputError(
            f"the custom loss {name}{_line(fn, error)} {message}", advice=advice
        ) from error


def _explained(error: Exception) -> tuple[str, str]:
    if isinstance(error, _Forbidden):
        return str(error), error.advice
    message = (
        "branches or loops on a tensor"
        if isinstance(error, TraceError)
        else f"raises {type(error).__name__}: {error}"
    )
    return (
        message,
        "A trace has no values to run Python on: select with torch.where, reduce with .sum(), "
        "count with .size(0).",
    )


def _line(fn: PerDatumLossFn, error: Exception) -> str:
    """Returns the words for the line of the user's function that failed."""
    code = getattr(fn, "__code__", None)
    frames = traceback.walk_tb(error.__traceback__)
    lines = [number for frame, number in frames if code is not None and frame.f_code is code]
    return f", line {lines[-1]} of {code.co_filename}," if lines and code is not None else ""


def _checked_result(result: Any, name: str) -> tuple[fx.Proxy, dict[str, fx.Proxy]]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise InvalidInputError(
            f"the custom loss {name} must return (loss, metrics), not {type(result).__name__}"
        )
    loss, metrics = result
    if not isinstance(loss, fx.Proxy):
        raise InvalidInputError(
            f"the loss that {name} returns is not a tensor computed from its inputs, but "
            f"{type(loss).__name__}"
        )
    if not isinstance(metrics, dict):
        raise InvalidInputError(
            f"the metrics that {name} returns must be a dict, not {type(metrics).__name__}"
        )
    for metric, value in metrics.items():
        if not isinstance(metric, str) or not METRIC_NAME.fullmatch(metric):
            raise InvalidInputError(
                f"the metric {metric!r} of {name} must be named custom/<name>:sum or "
                "custom/<name>:mean, with a name of a-z, 0-9, _, ., / and -"
            )
        if not isinstance(value, fx.Proxy):
            raise InvalidInputError(
                f"the metric {metric!r} of {name} is not a tensor computed from its inputs, but "
                f"{type(value).__name__}"
            )
    return loss, metrics


def _try(run: PerDatumLossFn, name: str, inputs: list[CustomLossInput]) -> None:
    """Raises `InvalidInputError` for a loss or a metric that is not a scalar, and for a loss that
    does not depend on the logprobs.

    The kind of the inputs is not known, so the loss is tried with numbers and with indices. A loss
    that fails with both is checked when its first batch runs.
    """
    for dtype in (torch.float32, torch.int64):
        values = [
            torch.ones(_TRIAL_SIZES[: loss_input.rank], dtype=dtype) for loss_input in inputs[1:]
        ]
        try:
            with torch.inference_mode(False), torch.enable_grad():
                loss, metrics = run(
                    torch.full(_TRIAL_SIZES[: inputs[0].rank], -1.0, requires_grad=True), *values
                )
        except (RuntimeError, IndexError, TypeError, ValueError):
            continue
        check_scalars(f"the custom loss {name}", loss, metrics)
        if not loss.requires_grad:
            raise InvalidInputError(
                f"the custom loss {name} does not depend on the logprobs, so it cannot train "
                "anything",
                advice="Compute it from the given logprobs, without .detach().",
            )
        return

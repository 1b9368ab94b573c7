"""From a function in torch to a graph that a server can run: `trace` calls it once, on stand-ins
that write down what is done to them.

The stand-ins are torch.fx's. Its `Tracer` is not used: it swaps methods of torch in the whole
process while it runs, and other threads may be computing. Needs torch, so it is imported only when
a loss is made.
"""

# torch.fx types little of what it hands out
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
_LEAVES_TORCH = frozenset({"backward", "item", "numpy", "tolist"})
_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "T", "mT", "values", "indices"})
_TRIAL_SIZES = (4, 3)  # of the first and the second dimension of what a loss is tried on


def trace(fn: PerDatumLossFn, input_ranks: Mapping[str, Rank]) -> TracedLoss:
    """What `fn` does, as a graph. `fn` is called, on no data.

    Raises:
        InvalidInputError: naming the rule that `fn` or `input_ranks` breaks, and where.
    """
    name = getattr(fn, "__name__", type(fn).__name__)
    inputs = _inputs(fn, name, input_ranks)
    graph = fx.Graph()
    tracer = _LossTracer(graph)
    stand_ins = [tracer.proxy(graph.placeholder(loss_input.name)) for loss_input in inputs]
    result = _call(_with_traced_math(fn, tracer), name, stand_ins)
    graph.output(tracer.create_arg(_checked_result(result, name)))
    run = fx.GraphModule({}, graph).forward  # not the module itself, which prints what fails
    _try(run, name, inputs)
    return TracedLoss(name=name, inputs=inputs, graph=write_graph(graph), run=run)


class _Forbidden(Exception):
    """Something in the function that a graph cannot hold."""

    def __init__(self, words: str, advice: str) -> None:
        super().__init__(words)
        self.advice = advice


class _LossTracer(GraphAppendingTracer):
    """Refuses what a server could not run, while the line that does it can still be told."""

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
        if kind == "call_method" and target in _LEAVES_TORCH:
            raise _Forbidden(
                f"calls .{target}(), which leaves torch",
                "Stay with tensors; the gradient is found by itself.",
            )
        map_aggregate((args, kwargs), _check_argument)
        return super().create_node(kind, target, args, kwargs, name, type_expr)


def _check_function(function: Any, args: Any) -> None:
    if function is getattr and args[1] not in _ATTRIBUTES:
        raise _Forbidden(
            f"reads the attribute .{args[1]}",
            f"There are {', '.join(sorted(_ATTRIBUTES))}; methods have more.",
        )
    if function_name(function) is None:
        words = (
            f"calls {getattr(function, '__qualname__', function)!r}, which is not of torch, math "
            "or operator"
        )
        raise _Forbidden(words, "Write it by functions of torch.")


def _check_argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        raise _Forbidden(
            f"uses a tensor of shape {list(value.shape)} that is none of its inputs",
            "Make it an input, a Python number, or derive it from an input, by "
            "torch.zeros_like(logprobs) for example.",
        )
    try:
        write_argument(value)
    except Unwritable as error:
        raise _Forbidden(
            f"uses {error}, which cannot be sent",
            "Use numbers, texts, lists, slices and torch's dtypes.",
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
            f"there may be {_MAX_INPUTS} at most"
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
        raise InvalidInputError(f"{where} is not a plain positional one")
    if parameter.default is not inspect.Parameter.empty:
        raise InvalidInputError(
            f"{where} has a default", advice="Leave it out: write the value into the function."
        )
    if not _INPUT_NAME.fullmatch(parameter.name):
        raise InvalidInputError(
            f"{where} must be of a-z, 0-9 and _, at most 64 of them, and not begin with a digit"
        )


def _with_traced_math(fn: PerDatumLossFn, tracer: _LossTracer) -> PerDatumLossFn:
    """The function, with a `math` that takes stand-ins, which Python's own does not: it asks for
    real numbers.
    """
    if not inspect.isfunction(fn):
        return fn
    names = {
        name: _TracedMath(tracer) if value is math else value
        for name, value in fn.__globals__.items()
    }
    return types.FunctionType(fn.__code__, names, fn.__name__, fn.__defaults__, fn.__closure__)


class _TracedMath:
    """The module math, whose functions are written down when they are given a stand-in."""

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


def _call(fn: PerDatumLossFn, name: str, stand_ins: list[fx.Proxy]) -> Any:
    """What `fn` returns. Whatever it raises is told as its fault, with the line."""
    try:
        return fn(*stand_ins)
    except Exception as error:
        words, advice = _explained(error)
        raise InvalidInputError(
            f"the custom loss {name}{_line(fn, error)} {words}", advice=advice
        ) from error


def _explained(error: Exception) -> tuple[str, str]:
    if isinstance(error, _Forbidden):
        return str(error), error.advice
    words = (
        "branches or loops on a tensor"
        if isinstance(error, TraceError)
        else f"raises {type(error).__name__}: {error}"
    )
    return (
        words,
        "A trace runs no Python on values: choose by torch.where, reduce by .sum(), count by "
        ".size(0).",
    )


def _line(fn: PerDatumLossFn, error: Exception) -> str:
    """Where in the user's function it went wrong."""
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
            f"the loss that {name} returns is no tensor made of its inputs, but "
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
                "custom/<name>:mean, of a-z, 0-9, _, ., / and -"
            )
        if not isinstance(value, fx.Proxy):
            raise InvalidInputError(
                f"the metric {metric!r} of {name} is no tensor made of its inputs, but "
                f"{type(value).__name__}"
            )
    return loss, metrics


def _try(run: PerDatumLossFn, name: str, inputs: list[CustomLossInput]) -> None:
    """Raises `InvalidInputError` for a loss or a metric that is no scalar, and for a loss that
    cannot train.

    What the inputs hold is not known, so they are tried as numbers and as indices. A loss that
    wants yet other ones is checked by its first batch.
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
                advice="Compute it from the logprobs given, without .detach().",
            )
        return

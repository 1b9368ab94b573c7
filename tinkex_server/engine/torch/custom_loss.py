"""Losses that a client sent as a graph (openapi/tinker.yaml, CustomLossGraph): checked node by
node, then run by torch.

A graph may come from anybody who can reach the server, so nothing in it is imported, evaluated or
looked up freely: a node may only call what `custom_loss_operations` lists, and the size of each
tensor, and of all together, is bounded.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from tinkex_server.engine.interface import CustomLoss, Example, InvalidRequest
from tinkex_server.engine.torch.custom_loss_limits import CustomLossLimits
from tinkex_server.engine.torch.custom_loss_operations import FUNCTIONS, METHODS, WORDS, check_count

LOGPROBS = "logprobs"

_MAX_INPUTS, _MAX_NODES, _MAX_DEPTH = 16, 2_000, 16
_METRIC_NAME = re.compile(r"custom/[a-z0-9_./-]{1,64}:(sum|mean)")
_LEAVES = ("ref", "device", "ellipsis", *WORDS)  # forms of arguments without parts

Values = Mapping[str, Any]
"""The values of the nodes computed so far, by node name."""


@frozen
class LossProgram:
    """A custom loss that passed the checks. It may still fail on particular data."""

    loss: CustomLoss
    _known_to_fit: set[object] = field(factory=set, init=False)
    """The names, dtypes and shapes of inputs that are known to stay within the limits."""

    def check(self, index: int, example: Example) -> None:
        """Raises `InvalidRequest` for an input that is missing or has another rank."""
        for name, rank in self.loss.inputs:
            wanted, where = (
                "target_tokens" if name == LOGPROBS else name,
                f"data[{index}].loss_fn_inputs",
            )
            if wanted not in example.loss_inputs:
                raise InvalidRequest(f"{where} lacks {wanted!r}, which the custom loss needs")
            shape = example.loss_inputs[wanted].shape
            if len(shape) != rank and not (
                rank == 0 and shape == (1,)
            ):  # a scalar may be sent as (1,)
                raise InvalidRequest(
                    f"{where}[{wanted!r}] has the shape {list(shape)}, but the custom loss takes "
                    f"rank {rank}"
                )
        self._check_names(index, example)

    def _check_names(self, index: int, example: Example) -> None:
        known = {"target_tokens", *(name for name, _ in self.loss.inputs[1:])}
        for name in example.loss_inputs:
            if name not in known:
                hint = ": its logprobs are those of the current model" if name == LOGPROBS else ""
                raise InvalidRequest(
                    f"data[{index}].loss_fn_inputs[{name!r}] has no effect: the custom loss reads "
                    f"only {', '.join(sorted(known))}{hint}. "
                    "Rename it, or leave it out"
                )

    def __call__(
        self, logprobs: Tensor, index: int, example: Example
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Returns the loss of a datum, of shape `(1,)`, and its metrics. Raises `InvalidRequest` if
        it cannot be computed.
        """
        try:
            loss, metrics = self._run(logprobs, example)
        except InvalidRequest as error:
            raise InvalidRequest(
                f"the custom loss of data[{index}] cannot be computed: {error}"
            ) from error
        if logprobs.requires_grad:
            # frees the graph now
            loss = _LossWithGradient.apply(
                logprobs, loss.detach(), *torch.autograd.grad(loss, logprobs)
            )
        return loss.reshape(1), {name: value.item() for name, value in metrics.items()}

    def _run(self, logprobs: Tensor, example: Example) -> tuple[Tensor, Mapping[str, Tensor]]:
        # a copy, since the graph may change it in place
        values: dict[str, Any] = {
            LOGPROBS: logprobs.clone(),
            **_tensors(self.loss, example, logprobs.device),
        }
        kind = tuple((name, value.dtype, value.shape) for name, value in values.items())
        bounds = CustomLossLimits()
        # new tensors are made on this device, within the limits
        with logprobs.device, nullcontext() if kind in self._known_to_fit else bounds:
            for node in self.loss.nodes[:-1]:
                values[node["name"]] = _run_node(node, values, logprobs.device)
        if not bounds.depends_on_values:
            self._known_to_fit.add(kind)
        return _check_result(
            read_argument(self.loss.nodes[-1]["args"][0], values, logprobs.device),
            needs_grad=logprobs.requires_grad,
        )


class _LossWithGradient(torch.autograd.Function):
    """A loss whose gradient with respect to the logprobs is already known."""

    @staticmethod
    def forward(ctx: Any, logprobs: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        """Returns the loss."""
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        """Returns the gradient with respect to each argument; only the logprobs have one."""
        [gradient] = ctx.saved_tensors
        return outer[0] * gradient, None, None


def compile_loss(loss: CustomLoss) -> LossProgram:
    """Returns a runnable loss. Raises `InvalidRequest`, naming the node, for a graph that may not
    be run.
    """
    _check_inputs(loss)
    ends = [index for index, node in enumerate(loss.nodes) if node["op"] == "output"]
    if len(loss.nodes) > _MAX_NODES or ends != [len(loss.nodes) - 1]:
        raise InvalidRequest(
            f"a custom loss has at most {_MAX_NODES} nodes, and only the last one is the output"
        )
    known: set[str] = set()
    for node in loss.nodes:
        _check_node(node, known, [name for name, _ in loss.inputs])
        known.add(node["name"])
    return LossProgram(loss)


def reduce_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the metrics of a batch, reduced over its data as their names say. All rows have the
    same names.
    """
    return {
        name: sum(row[name] for row in rows) / (len(rows) if name.endswith(":mean") else 1)
        for name in rows[0]
    }


def _check_inputs(loss: CustomLoss) -> None:
    names = [name for name, _ in loss.inputs]
    if (
        not names
        or names[0] != LOGPROBS
        or len(names) > _MAX_INPUTS
        or len(set(names)) != len(names)
    ):
        raise InvalidRequest(
            f"a custom loss has at most {_MAX_INPUTS} inputs of different names, the first "
            f"of which is {LOGPROBS}; found {names}"
        )
    if any(rank not in (0, 1, 2) for _, rank in loss.inputs):
        raise InvalidRequest("the rank of an input of a custom loss must be 0, 1 or 2")
    if loss.inputs[0][1] == 0:
        raise InvalidRequest("logprobs have rank 1, or rank 2 with several targets per position")


def _check_node(node: Mapping[str, Any], known: set[str], inputs: Sequence[str]) -> None:
    op, target, where = node["op"], node["target"], f"node {node['name']!r} of the custom loss"
    if node["name"] in known:
        raise InvalidRequest(f"{where} has the name of an earlier one")
    if op == "placeholder" and target not in inputs:
        raise InvalidRequest(f"{where} reads {target!r}, which is not an input")
    if op == "call_function" and target not in FUNCTIONS:
        raise InvalidRequest(
            f"{where} calls the function {target!r}, which is not allowed in a custom loss"
        )
    if op == "call_method" and target not in METHODS:
        raise InvalidRequest(
            f"{where} calls the method {target!r}, which is not allowed in a custom loss"
        )
    if op not in ("placeholder", "call_function", "call_method", "output"):
        raise InvalidRequest(
            f"{where} has the op {op!r}: a custom loss cannot use modules or attributes"
        )
    args, kwargs = node.get("args") or [], node.get("kwargs") or {}
    if op == "output" and len(args) != 1:
        raise InvalidRequest(f"{where} must have one argument: the loss and its metrics")
    for argument in (*args, *kwargs.values()):
        _check_argument(argument, known, where, depth=0)


def _check_argument(argument: Any, known: set[str], where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InvalidRequest(f"{where} has arguments nested deeper than {_MAX_DEPTH}")
    for part in _parts(argument, where):
        _check_argument(part, known, where, depth + 1)
    if isinstance(argument, dict):
        [(kind, value)] = cast("dict[str, Any]", argument).items()
        _check_leaf(kind, value, known, where)


def _parts(argument: Any, where: str) -> Sequence[Any]:
    """Returns the arguments inside an argument. Raises `InvalidRequest` for an unknown form."""
    if isinstance(argument, list):
        return cast("list[Any]", argument)
    if not isinstance(argument, dict):
        return ()
    form = cast("dict[str, Any]", argument)
    if len(form) != 1:
        raise InvalidRequest(
            f"{where} has an argument with the keys {sorted(form)}; expected exactly one "
            "key, which names its kind"
        )
    [(kind, value)] = form.items()
    if (kind == "tuple" and isinstance(value, list)) or (
        kind == "slice" and isinstance(value, list) and len(value) == 3
    ):
        return cast("list[Any]", value)
    if kind == "dict" and isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    if kind in _LEAVES:
        return ()
    raise InvalidRequest(f"{where} has an argument {kind!r} of an unknown kind or form")


def _check_leaf(kind: str, value: Any, known: set[str], where: str) -> None:
    if kind == "ref" and (not isinstance(value, str) or value not in known):
        raise InvalidRequest(f"{where} refers to {value!r}, which is not an earlier node")
    words = WORDS.get(kind)
    if words is not None and (not isinstance(value, str) or value not in words):
        raise InvalidRequest(f"{where} has the {kind} {value!r}; known are {', '.join(words)}")


def _run_node(node: Mapping[str, Any], values: Values, device: torch.device) -> Any:
    """Returns the value of a node. Any error in it is reported as the graph's fault."""
    if node["op"] == "placeholder":
        return values[node["target"]]
    call = FUNCTIONS[node["target"]] if node["op"] == "call_function" else METHODS[node["target"]]
    try:
        args = [read_argument(argument, values, device) for argument in node.get("args") or []]
        kwargs = {
            name: read_argument(argument, values, device)
            for name, argument in (node.get("kwargs") or {}).items()
        }
        return _check_size(call(*args, **kwargs))
    except (
        RuntimeError,
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
    ) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidRequest(f"node {node['name']!r} ({node['target']}): {text}") from error


def _check_size(value: Any) -> Any:
    if isinstance(value, Tensor):
        check_count(value.numel())
    if isinstance(value, int) and abs(value) >= 2**63:
        raise OverflowError("makes an integer of more than 64 bits")
    return value


def read_argument(argument: Any, values: Values, device: torch.device) -> Any:
    """Returns the value of an argument whose form was checked."""
    if isinstance(argument, list):
        return [read_argument(item, values, device) for item in cast("list[Any]", argument)]
    if not isinstance(argument, dict):
        return argument
    [(kind, value)] = cast("dict[str, Any]", argument).items()
    match kind:
        case "ref":
            return values[value]
        case "tuple":
            return tuple(read_argument(item, values, device) for item in value)
        case "dict":
            return {name: read_argument(item, values, device) for name, item in value.items()}
        case "slice":
            return slice(*(read_argument(part, values, device) for part in value))
        case "ellipsis":
            return Ellipsis
        case "device":
            return device  # the client's device does not exist here
        case _:
            return WORDS[kind][value]


def _tensors(loss: CustomLoss, example: Example, device: torch.device) -> dict[str, Tensor]:
    """Returns the inputs except the logprobs, as tensors of their own dtypes."""
    tensors: dict[str, Tensor] = {}
    for name, rank in loss.inputs[1:]:
        tensor = torch.as_tensor(np.array(example.loss_inputs[name]), device=device)
        tensors[name] = tensor.reshape(()) if rank == 0 else tensor
    return tensors


def _check_result(result: Any, *, needs_grad: bool) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Returns the loss and the metrics. Raises `InvalidRequest` unless the loss is a
    differentiable, finite scalar and the metrics are scalars with valid names.
    """
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidRequest("the output is not a pair of a loss and a dict of metrics")
    loss, metrics = cast("tuple[Any, dict[str, Any]]", result)
    for name, value in {"the loss": loss, **metrics}.items():
        if not isinstance(value, Tensor) or value.ndim != 0:
            raise InvalidRequest(f"{name} is not a scalar tensor")
    for name in metrics:
        if not _METRIC_NAME.fullmatch(name):
            raise InvalidRequest(
                f"the metric {name!r} is not named custom/<name>:sum or custom/<name>:mean"
            )
    if needs_grad and not loss.requires_grad:
        raise InvalidRequest("the loss does not depend on the logprobs")
    if not torch.isfinite(loss):
        raise InvalidRequest(f"the loss is {loss.item()}")
    return loss, metrics

"""Writes a graph of torch.fx in the API's form (openapi/tinker.yaml, CustomLossGraph).

Needs torch.
"""

# torch.fx has few type annotations
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tinkex_api.models import CustomLossGraph, CustomLossNode, CustomLossNodeKwargs
from torch import fx

_FORMAT = 1


class Unwritable(Exception):
    """An error for a value that the API cannot express. The message describes the value."""


def write_graph(graph: fx.Graph) -> CustomLossGraph:
    """Returns a graph in the API's form. Raises `Unwritable` for what it cannot express."""
    return CustomLossGraph([_write_node(node) for node in graph.nodes], _FORMAT)


def function_name(function: Callable[..., Any]) -> str | None:
    """Returns the qualified name of a function of torch, math or operator; None for any other.

    It is the name that the function itself has, such as torch._C._nn.softplus for
    torch.nn.functional.softplus.
    """
    if function is getattr:
        return "getattr"
    module = (function.__module__ or "torch").replace("_operator", "operator")
    return (
        f"{module}.{function.__name__}"
        if module.partition(".")[0] in ("torch", "math", "operator")
        else None
    )


def write_argument(value: Any) -> Any:
    """Returns an argument in the API's form. Raises `Unwritable` for what it cannot express."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return _write_integer(value)
        case float():
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        case fx.Node():
            return {"ref": value.name}
        case tuple():
            return {"tuple": [write_argument(item) for item in value]}
        case list():
            return [write_argument(item) for item in value]
        case slice():
            return {
                "slice": [write_argument(part) for part in (value.start, value.stop, value.step)]
            }
        case Mapping():
            return {
                "dict": {_write_key(name): write_argument(item) for name, item in value.items()}
            }
        case _:
            return _write_setting(value)


def _write_node(node: fx.Node) -> CustomLossNode:
    target = node.target if isinstance(node.target, str) else function_name(node.target)
    if target is None:
        raise Unwritable(f"the function {node.target!r}")
    args = [write_argument(argument) for argument in node.args]
    kwargs = CustomLossNodeKwargs.from_dict(
        {name: write_argument(value) for name, value in node.kwargs.items()}
    )
    return CustomLossNode(node.op, node.name, target, args, kwargs)


def _write_integer(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise Unwritable("an integer of more than 64 bits")
    return value


def _write_key(name: Any) -> str:
    if not isinstance(name, str):
        raise Unwritable(f"a dict with the key {name!r}, which is not a string")
    return name


def _write_setting(value: Any) -> dict[str, Any]:
    if value is Ellipsis:
        return {"ellipsis": True}
    for kind, name in (
        (torch.dtype, "dtype"),
        (torch.layout, "layout"),
        (torch.memory_format, "memory_format"),
    ):
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise Unwritable(f"a value of the type {type(value).__name__}")

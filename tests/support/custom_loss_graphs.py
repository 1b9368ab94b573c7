"""Nodes of custom losses' graphs, as clients send them."""

from __future__ import annotations

from typing import Any

LOGPROBS = {"op": "placeholder", "name": "logprobs", "target": "logprobs", "args": [], "kwargs": {}}


def node(op: str, name: str, target: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"op": op, "name": name, "target": target, "args": list(args), "kwargs": kwargs}


def ref(name: str) -> dict[str, str]:
    return {"ref": name}


def output(loss: str, **metrics: str) -> dict[str, Any]:
    return node(
        "output",
        "output",
        "output",
        {"tuple": [ref(loss), {"dict": {name: ref(value) for name, value in metrics.items()}}]},
    )

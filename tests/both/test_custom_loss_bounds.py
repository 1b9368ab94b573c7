"""The memory that a client's loss graph may use on the server is bounded as a whole, and checked
before it is allocated.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinkex_server.engine.interface import CustomLoss, Example, InvalidRequest
from tinkex_server.engine.torch import custom_loss_limits
from tinkex_server.engine.torch.custom_loss import LossProgram, compile_loss
from tinkex_server.engine.torch.custom_loss_limits import MOST_BYTES, MOST_WORK, CustomLossLimits
from tinkex_server.engine.torch.custom_loss_operations import MAX_ELEMENTS

Node = Mapping[str, Any]


def node(op: str, name: str, target: str, *args: Any) -> Node:
    return {"op": op, "name": name, "target": target, "args": list(args), "kwargs": {}}


def ref(name: str) -> Any:
    return {"ref": name}


def program(*nodes: Node) -> LossProgram:
    first = node("placeholder", "logprobs", "logprobs")
    total = node(
        "call_method", "total", "sum", ref(nodes[-1]["name"]) if nodes else ref("logprobs")
    )
    output = node("output", "output", "output", {"tuple": [ref("total"), {"dict": {}}]})
    return compile_loss(CustomLoss([("logprobs", 1)], [first, *nodes, total, output]))


def run(loss: LossProgram, count: int) -> torch.Tensor:
    tokens = np.arange(count)
    return loss(
        torch.full((count,), -1.0, requires_grad=True),
        0,
        Example(tokens, {"target_tokens": tokens}),
    )[0]


def most_resident() -> int:
    """Mebibytes, the most since the process began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


SQUARE = [
    node("call_method", "a", "unsqueeze", ref("logprobs"), 0),
    node("call_method", "b", "unsqueeze", ref("logprobs"), 1),
    node("call_function", "c", "torch.mul", ref("a"), ref("b")),
]
MADE_OF_NUMBERS = [
    node("call_function", f"z{i}", "torch.ones", MAX_ELEMENTS // 8) for i in range(60)
]
REPEATED = [node("call_function", "r", "torch.cat", [ref("logprobs")] * 2_000)]
GROWING = [node("call_function", "m0", "torch.mul", ref("logprobs"), 2.0)] + [
    node("call_function", f"m{i}", "torch.mul", ref(f"m{i - 1}"), 2.0) for i in range(1, 1_900)
]


@pytest.mark.parametrize(
    ("nodes", "count", "named"),
    [
        (SQUARE, 30_000, "'c'"),
        (MADE_OF_NUMBERS, 4, "'z"),
        (REPEATED, 100_000, "'r'"),
        (GROWING, 100_000, "'m"),
    ],
    ids=[
        "table of tokens by tokens",
        "many of numbers",
        "one thing joined often",
        "long chain",
    ],
)
def test_a_graph_that_needs_too_much_memory_is_refused_before_it_allocates_any(
    nodes: list[Node], count: int, named: str
) -> None:
    before = most_resident()
    with pytest.raises(
        InvalidRequest,
        match=rf"data\[0\].*{named}.*the allowed {MOST_BYTES >> 20} MiB.*shorter",
    ):
        run(program(*nodes), count)
    assert most_resident() - before < (MOST_BYTES >> 20)


def test_a_graph_within_the_limits_runs_and_is_freed_with_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[weakref.ref[Any]] = []
    multiply = torch.mul

    def noted(*args: Any) -> torch.Tensor:
        result = multiply(*args)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setitem(compile_loss.__globals__["FUNCTIONS"], "torch.mul", noted)
    logprobs = torch.full((500,), -1.0, requires_grad=True)
    loss, _ = program(*SQUARE)(
        logprobs, 0, Example(np.arange(500), {"target_tokens": np.arange(500)})
    )
    assert made
    assert [ref() for ref in made] == [None]
    assert float(loss.detach()) == 250_000
    [gradient] = torch.autograd.grad(2 * loss.sum(), [logprobs])
    assert torch.equal(gradient, torch.full((500,), -2_000.0))  # of (sum of x)^2, twice


PRODUCTS = [
    *SQUARE,
    *(node("call_function", f"p{i}", "torch.matmul", ref("c"), ref("c")) for i in range(40)),
]
EXPANDED = [
    node("call_method", "a", "unsqueeze", ref("logprobs"), 1),
    node("call_method", "wide", "expand", ref("a"), -1, 16_000),
    *(node("call_method", f"s{i}", "sum", ref("wide")) for i in range(1_500)),
]
MEDIANS = [
    *EXPANDED[:2],
    *(node("call_method", f"m{i}", "median", ref("wide")) for i in range(100)),
]
IN_PLACE = [*SQUARE, *(node("call_method", f"e{i}", "exp_", ref("c")) for i in range(1_500))]
OF_INTEGERS = [
    *SQUARE,
    node("call_method", "l", "long", ref("c")),
    node("call_function", "p0", "torch.matmul", ref("l"), ref("l")),
]
SINGULAR = [*SQUARE, node("call_function", "n0", "torch.linalg.norm", ref("c"), 2)]


@pytest.mark.parametrize(
    ("nodes", "count", "named"),
    [
        (PRODUCTS, 1_000, "'p9'"),  # 1e9 each, of which as many more were to come
        (EXPANDED, 400, "'s"),
        (MEDIANS, 100, "'m"),
        (IN_PLACE, 700, "'e"),
        (OF_INTEGERS, 800, "'p0'"),
        (SINGULAR, 800, "'n0'"),
    ],
    ids=[
        "products",
        "sums of a view",
        "medians of a view",
        "in place",
        "integers",
        "singular values",
    ],
)
def test_a_graph_that_would_take_too_long_is_refused_before_it_runs(
    nodes: list[Node], count: int, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom_loss_limits, "MOST_WORK", MOST_WORK // 100)
    began = time.monotonic()
    with pytest.raises(
        InvalidRequest,
        match=rf"data\[0\].*{named}.*the allowed 10,000,000,000 multiplications.*shorter",
    ):
        run(program(*nodes), count)
    assert time.monotonic() - began < 10


def test_real_losses_are_far_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_loss_limits, "MOST_WORK", MOST_WORK // 100)
    logsumexp = node("call_function", "d", "torch.logsumexp", ref("c"), 1)
    assert run(program(*SQUARE, logsumexp), 4_000).isfinite()


@pytest.mark.parametrize("count", [3, 20_000])
def test_selecting_by_a_mask_counts_as_selecting_everything(count: int) -> None:
    positive = node("call_function", "p", "torch.lt", ref("logprobs"), 0.0)
    chosen = node("call_function", "c", "operator.getitem", ref("logprobs"), ref("p"))
    selected = node("call_function", "s", "torch.masked_select", ref("c"), ref("p"))
    assert float(run(program(positive, chosen, selected), count).detach()) == -count


def test_inputs_of_the_same_shapes_are_checked_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    seen = CustomLossLimits.__torch_dispatch__

    def dispatch(self: CustomLossLimits, *args: Any) -> Any:
        looked.append(1)
        return seen(self, *args)

    monkeypatch.setattr(CustomLossLimits, "__torch_dispatch__", dispatch)
    loss = program(*SQUARE)
    run(loss, 10)
    once = len(looked)
    assert once
    run(loss, 10)
    assert len(looked) == once
    run(loss, 11)
    assert len(looked) == 2 * once


@pytest.mark.parametrize(
    ("name", "words"), [("weihgts", "has no effect"), ("logprobs", "those of the current model")]
)
def test_an_input_that_the_loss_does_not_read_is_refused(name: str, words: str) -> None:
    example = Example(np.arange(2), {"target_tokens": np.arange(2), name: np.ones(2)})
    with pytest.raises(InvalidRequest, match=words):
        program().check(0, example)

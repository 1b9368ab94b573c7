"""Custom losses: what a graph may contain, how long a loss lives, and that a hostile one does no
harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.custom_loss_graphs import LOGPROBS, node, output, ref
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, started, step
from tinkex_server.engine.interface import CustomLoss, Example, InvalidRequest
from tinkex_server.engine.torch.custom_loss import LossProgram, compile_loss

TOTAL = node("call_method", "total", "sum", ref("logprobs"))
OUTPUT = output("total")


def graph(*nodes: Any) -> CustomLoss:
    """A loss with these nodes, which is the sum of the logprobs."""
    return CustomLoss([("logprobs", 1)], [LOGPROBS, *nodes, TOTAL, OUTPUT])


def run(program: LossProgram, logprobs: Sequence[float] = (-1.0, -2.0)) -> tuple[float, Any]:
    example = Example(np.arange(len(logprobs)), {"target_tokens": np.arange(len(logprobs))})
    loss, metrics = program(torch.tensor(logprobs, requires_grad=True), 0, example)
    return loss.item(), metrics


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (node("call_function", "n", "os.system", "true"), "function 'os.system'"),
        (node("call_function", "n", "builtins.eval", "1"), "function 'builtins.eval'"),
        (node("call_function", "n", "torch.load", "file"), "function 'torch.load'"),
        (node("call_function", "n", "torch.__dict__", "file"), "function"),
        (node("call_method", "n", "__reduce__", ref("logprobs")), "method '__reduce__'"),
        (node("call_method", "n", "numpy", ref("logprobs")), "method 'numpy'"),
        (node("call_method", "n", "backward", ref("logprobs")), "method 'backward'"),
        (node("get_attr", "n", "weight"), "the op 'get_attr'"),
        (node("call_module", "n", "linear", ref("logprobs")), "the op 'call_module'"),
        (node("output", "n", "output", ref("logprobs")), "only the last one is the output"),
        (node("placeholder", "n", "weights"), "'weights', which is not an input"),
        (
            node("call_function", "n", "torch.exp", ref("total")),
            "refers to 'total', which is not an earlier node",
        ),
        (node("call_function", "n", "torch.exp", {"ref": ["logprobs"]}), "not an earlier node"),
        (
            node("call_function", "n", "torch.exp", {"ref": "logprobs", "tuple": []}),
            "expected exactly one key",
        ),
        (node("call_function", "n", "torch.exp", {}), "expected exactly one key"),
        (
            node("call_function", "n", "torch.exp", {"code": "1"}),
            "an argument 'code' of an unknown kind",
        ),
        (node("call_function", "n", "torch.exp", {"slice": [1]}), "an argument 'slice'"),
        (
            node("call_method", "n", "to", ref("logprobs"), {"dtype": "Tensor"}),
            "the dtype 'Tensor'",
        ),
        (node("call_method", "n", "to", ref("logprobs"), {"float": 1.0}), "the float 1.0"),
        (node("call_method", "logprobs", "exp", ref("logprobs")), "the name of an earlier one"),
    ],
)
def test_a_forbidden_graph_is_refused(step: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        compile_loss(graph(step))


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else 1


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (CustomLoss([("logprobs", 1)], []), "only the last one is the output"),
        (CustomLoss([("logprobs", 1)], [LOGPROBS, TOTAL]), "only the last one is the output"),
        (
            CustomLoss([("logprobs", 1)], [LOGPROBS, node("output", "output", "output")]),
            "must have one argument",
        ),
        (
            graph(*[node("call_method", f"n{i}", "exp", ref("logprobs")) for i in range(2000)]),
            "at most 2000 nodes",
        ),
        (graph(node("call_function", "n", "torch.exp", deep(20))), "nested deeper"),
        (CustomLoss([], [TOTAL, OUTPUT]), "the first of which is logprobs"),
        (
            CustomLoss([("logprobs", 1), ("logprobs", 1)], [LOGPROBS, TOTAL, OUTPUT]),
            "of different names",
        ),
        (
            CustomLoss(
                [("logprobs", 1), *((f"x{i}", 1) for i in range(16))], [LOGPROBS, TOTAL, OUTPUT]
            ),
            "at most 16 inputs",
        ),
        (CustomLoss([("logprobs", 1), ("x", 3)], [LOGPROBS, TOTAL, OUTPUT]), "0, 1 or 2"),
        (CustomLoss([("logprobs", 0)], [LOGPROBS, TOTAL, OUTPUT]), "logprobs have rank 1, or"),
    ],
)
def test_a_loss_out_of_bounds_is_refused(loss: CustomLoss, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        compile_loss(loss)


def doubling(count: int) -> list[Any]:
    names = ["logprobs", *(f"n{i}" for i in range(count))]
    return [
        node("call_function", new, "torch.cat", [ref(old), ref(old)])
        for old, new in pairwise(names)
    ]


def squaring(count: int) -> list[Any]:
    first = node("call_function", "n0", "operator.mul", 3, 3)
    return [
        first,
        *(
            node("call_function", f"n{i + 1}", "operator.mul", ref(f"n{i}"), ref(f"n{i}"))
            for i in range(count)
        ),
    ]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            [node("call_function", "n", "operator.mul", "a", 10**12)],
            "takes tensors and numbers, not str, int",
        ),
        (
            [node("call_function", "n", "operator.mul", [0], 10**12)],
            "takes tensors and numbers, not list, int",
        ),
        ([node("call_function", "n", "operator.pow", 10, 10**9)], "to a power above"),
        (squaring(40), "an integer of more than 64 bits"),
        ([node("call_function", "n", "torch.zeros", 10**12)], "creates more than"),
        ([node("call_function", "n", "torch.ones", [10**6, 10**6])], "creates more than"),
        ([node("call_function", "n", "torch.arange", 0, 1, 1e-12)], "creates more than"),
        ([node("call_function", "n", "torch.arange", 0, 1, 0)], "division"),
        (
            [
                node("call_function", "first", "operator.getitem", ref("logprobs"), 0),
                node("call_method", "n", "expand", ref("first"), 10**12),
            ],
            "creates more than",
        ),
        (doubling(40), "need more than the allowed"),
        ([node("call_method", "n", "exp", 1)], "'n' \\(exp\\)"),
        ([node("call_function", "n", "torch.exp", ref("logprobs"), nonsense=1)], "nonsense"),
    ],
)
def test_a_graph_beyond_the_limits_fails_quickly(steps: list[Any], words: str) -> None:
    program = compile_loss(graph(*steps))
    with pytest.raises(InvalidRequest, match=words):
        run(program)


@pytest.mark.parametrize(
    ("end", "steps", "words"),
    [
        (output("logprobs"), [], "the loss is not a scalar"),
        (node("output", "output", "output", ref("total")), [], "not a pair of a loss and a dict"),
        (
            output("n"),
            [node("call_method", "n", "size", ref("logprobs"), 0)],
            "the loss is not a scalar tensor",
        ),
        (output("total", ratio="total"), [], "'ratio' is not named"),
        (
            output("n"),
            [node("call_method", "n", "detach", ref("total"))],
            "does not depend on the logprobs",
        ),
        (
            output("n"),
            [node("call_function", "n", "operator.mul", ref("total"), {"float": "nan"})],
            "the loss is nan",
        ),
    ],
)
def test_an_invalid_output_is_refused_when_the_loss_runs(
    end: Any, steps: list[Any], words: str
) -> None:
    program = compile_loss(CustomLoss([("logprobs", 1)], [LOGPROBS, TOTAL, *steps, end]))
    with pytest.raises(InvalidRequest, match=words):
        run(program)


def test_a_graph_in_place_changes_no_logprobs_but_its_own() -> None:
    steps = [
        node("call_function", "doubled", "operator.imul", ref("logprobs"), 2.0),
        node("call_method", "n", "sum", ref("logprobs")),
    ]
    program = compile_loss(CustomLoss([("logprobs", 1)], [LOGPROBS, *steps, output("n")]))
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss, _ = program(logprobs, 0, Example(np.arange(2), {"target_tokens": np.arange(2)}))
    loss.backward()
    assert (loss.item(), logprobs.tolist(), logprobs.grad.tolist()) == (
        -6.0,
        [-1.0, -2.0],
        [2.0, 2.0],
    )


@pytest.mark.parametrize(
    ("inputs", "words"),
    [({}, "lacks 'x'"), ({"x": np.ones(2)}, r"\['x'\] has the shape \[2\].*rank 2")],
)
def test_a_missing_input_or_a_wrong_rank_is_refused(inputs: Any, words: str) -> None:
    program = compile_loss(CustomLoss([("logprobs", 1), ("x", 2)], [LOGPROBS, TOTAL, OUTPUT]))
    with pytest.raises(InvalidRequest, match=rf"data\[3\].*{words}"):
        program.check(3, Example(np.arange(2), {"target_tokens": np.arange(2), **inputs}))


# ---- over the wire ----


def request(
    session_id: str,
    number: int = 0,
    *,
    nodes: Sequence[Any] = (LOGPROBS, TOTAL, OUTPUT),
    **more: Any,
) -> dict[str, Any]:
    inputs = [{"name": "logprobs", "rank": 1}]
    body = {
        "session_id": session_id,
        "custom_loss_seq_id": number,
        "name": "mine",
        "inputs": inputs,
    }
    return {
        **body,
        "graph": {"format": 1, "nodes": list(nodes)},
        "type": "create_custom_loss",
        **more,
    }


def custom_step(model_id: str, seq_id: int, config: Any) -> dict[str, Any]:
    body = step(model_id, seq_id)
    body["forward_backward_input"] |= {"loss_fn": "custom", "loss_fn_config": config}
    return body


def test_a_loss_is_registered_once_and_survives_a_restart(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        session_id = api.session()
        promise = api.ok("create_custom_loss", **request(session_id))
        loss_id = api.result(promise)["loss_id"]
        assert loss_id == f"{session_id}:loss:0"
        assert api.ok("create_custom_loss", **request(session_id)) == promise
        assert api.engine.count("check_loss") == 1
        assert (
            api.send("create_custom_loss", **request(session_id, name="other")).status_code == 400
        )
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        model_id = api.model(session_id, 3)
        assert api.result(
            api.ok("forward_backward", **custom_step(model_id, 1, {"loss_id": loss_id}))
        )["metrics"] == {"loss:sum": 6.0}


def test_a_loss_that_the_engine_refuses_is_the_senders_fault(api: Api) -> None:
    session_id = api.session()
    failed = api.result(
        api.ok("create_custom_loss", **request(session_id, nodes=[LOGPROBS, *[TOTAL] * 20, OUTPUT]))
    )
    assert (failed["category"], failed["error"]) == ("user", "too many nodes")
    config = {"loss_id": f"{session_id}:loss:0"}
    assert (
        api.send("forward_backward", **custom_step(api.model(session_id), 1, config)).status_code
        == 400
    )


@pytest.mark.parametrize(
    ("config", "status"),
    [
        ({}, 422),
        ({"loss_id": 1}, 422),
        ({"loss_id": "LOSS", "clip_low_threshold": 1.0}, 422),
        ({"loss_id": "no"}, 400),
    ],
)
def test_a_step_with_a_wrongly_named_loss_is_refused(api: Api, config: Any, status: int) -> None:
    session_id = api.session()
    loss_id = api.result(api.ok("create_custom_loss", **request(session_id)))["loss_id"]
    config = {name: loss_id if value == "LOSS" else value for name, value in config.items()}
    assert (
        api.send("forward_backward", **custom_step(api.model(session_id), 1, config)).status_code
        == status
    )


def test_a_loss_belongs_to_its_session(api: Api) -> None:
    loss_id = api.result(api.ok("create_custom_loss", **request(api.session())))["loss_id"]
    refused = api.send("forward_backward", **custom_step(api.model(), 1, {"loss_id": loss_id}))
    assert (refused.status_code, "has no custom loss" in refused.json()["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"custom_loss_seq_id": -1}, 422),
        ({"graph": {"format": 2, "nodes": []}}, 400),
        ({"session_id": "no"}, 404),
        ({"inputs": 1}, 422),
    ],
)
def test_an_invalid_request_is_refused(api: Api, more: Any, status: int) -> None:
    assert (
        api.send("create_custom_loss", **{**request(api.session()), **more}).status_code == status
    )

"""A traced loss trains the same on the server and in the client. One that cannot be traced is
refused before anything is sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tests.support.batches import datum, text_batch
from tests.support.recording_engine import RecordingEngine
from tinkex import (
    AdamParams,
    ChunkLimits,
    Config,
    Datum,
    InvalidInputError,
    LossHandle,
    ModelInput,
    RequestFailedError,
)
from tinkex.local import Server
from tinkex.losses.graph import write_argument
from tinkex.losses.tracing import trace
from tinkex_server.engine.torch.custom_loss import read_argument
from tinkex_server.routes import server as server_routes

UNREACHABLE = "http://127.0.0.1:9"
RANKS = {"logprobs": 1, "x": 1}


def cross_entropy(logprobs: Any, weights: Any) -> Any:
    return -(weights * logprobs).sum(), {
        "custom/weight:sum": weights.sum(),
        "custom/logprob:mean": logprobs.mean(),
    }


def policy(logprobs: Any, sampled: Any, advantages: Any, scale: Any) -> Any:
    """importance_sampling, by as many kinds of node as it can be written in."""
    ratio = torch.exp(logprobs - sampled)
    products = torch.where(advantages != 0, ratio * advantages, float("inf"))[
        ..., : advantages.size(0)
    ]
    kept = products.masked_fill(torch.isinf(products), 0.0)
    mean = torch.nn.functional.softplus(ratio).sum() / math.sqrt(ratio.shape[0])
    loss = -torch.stack([kept.sum(dim=-1), torch.nn.functional.relu(kept - kept)[0]]).sum() * scale
    return loss, {
        "custom/ratio:mean": torch.max(ratio, dim=0).values,
        "custom/soft:mean": mean,
        "custom/over_1:sum": (ratio > 1).to(torch.float32).sum(),
    }


def soft_batch() -> list[Datum]:
    tokens = list(b"forty two")
    targets = np.stack([tokens[1:], tokens[:-1]], axis=1)
    return [
        Datum(
            ModelInput.from_ints(tokens[:-1]),
            {"target_tokens": targets, "weights": np.linspace(0, 1, 16).reshape(8, 2)},
        )
    ]


def rollout_batch() -> list[Datum]:
    tokens, rows = list(b"forty two"), []
    for length in (4, 8):
        sampled = np.linspace(-2.0, -1.0, length, dtype=np.float32)
        inputs = {
            "target_tokens": tokens[1 : length + 1],
            "logprobs": sampled,
            "advantages": np.linspace(-1, 2, length),
        }
        rows.append(
            Datum(
                ModelInput.from_ints(tokens[:length]),
                {**inputs, "sampled": sampled, "scale": np.float32(1.0)},
            )
        )
    return rows


@pytest.fixture
def trainer(service: Any) -> Any:
    return service.create_lora_training_client("fake/base", rank=4)


@pytest.mark.parametrize(
    ("make_data", "name", "fn", "ranks"),
    [
        (text_batch, "cross_entropy", cross_entropy, {"logprobs": 1, "weights": 1}),
        (soft_batch, "cross_entropy", cross_entropy, {"logprobs": 2, "weights": 2}),
        (
            rollout_batch,
            "importance_sampling",
            policy,
            {"logprobs": 1, "sampled": 1, "advantages": 1, "scale": 0},
        ),
    ],
    ids=["cross_entropy", "soft targets", "importance_sampling"],
)
def test_a_custom_loss_run_by_the_server_or_the_client_equals_the_built_in_loss(
    connect: Callable[..., Any],
    torch_server: Server,
    make_data: Any,
    name: str,
    fn: Any,
    ranks: Any,
) -> None:
    service = connect(torch_server.base_url)
    handle = service.create_custom_loss(fn, ranks)
    assert handle.loss_id
    by_client = evolve(handle, loss_id=None)
    data, losses, updates, after, custom = make_data(), [], [], [], []
    plain = [
        evolve(
            d,
            loss_fn_inputs={
                n: d.loss_fn_inputs[n] for n in d.loss_fn_inputs if n not in ("sampled", "scale")
            },
        )
        for d in data
    ]
    for loss_fn in (name, handle, by_client):
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=7)
        own = isinstance(loss_fn, str)
        output = (
            trainer.forward_backward(plain, loss_fn)
            if own
            else trainer.forward_backward_custom(data, loss_fn)
        ).result()
        losses.append(output.metrics["loss:sum"])
        custom.append(
            {
                metric: value
                for metric, value in output.metrics.items()
                if metric.startswith("custom/")
            }
        )
        updates.append(dict(trainer.optim_step(AdamParams(learning_rate=1e-2)).result().metrics))
        after.append(trainer.forward(plain, name).result().metrics["loss:sum"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)
    assert after[1:] == pytest.approx([after[0]] * 2, rel=1e-5)
    assert updates[1] == pytest.approx(updates[0], rel=1e-5)
    assert updates[2] == pytest.approx(updates[0], rel=1e-5)
    assert custom[1] == pytest.approx(custom[2], rel=1e-6)
    assert len(custom[1]) == (2 if name == "cross_entropy" else 3)
    assert abs(after[0] - losses[0]) > 0.01  # the step did something


def test_metrics_are_reduced_over_datums_also_when_the_batch_is_split(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    config = Config(
        base_url=torch_server.base_url, api_key="tml-test", chunk_limits=ChunkLimits(max_items=1)
    )
    data, found = text_batch(), []
    for service in (connect(torch_server.base_url), connect(torch_server.base_url, config=config)):
        handle = service.create_custom_loss(cross_entropy, {"logprobs": 1, "weights": 1})
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=7)
        found.append(trainer.forward_backward_custom(data, handle).result().metrics)
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[0]["custom/weight:sum"] == sum(
        d.loss_fn_inputs["weights"].to_numpy().sum() for d in data
    )


@pytest.mark.rule(19)
def test_a_server_without_custom_losses_is_not_asked_to_run_one(
    service: Any,
    trainer: Any,
    server_engine: RecordingEngine,
    monkeypatch: pytest.MonkeyPatch,
    connect: Callable[..., Any],
    server: Server,
) -> None:
    monkeypatch.setattr(
        server_routes, "FLAGS", evolve(server_routes.FLAGS, custom_loss_server_side=None)
    )
    checked = server_engine.count("check_loss")
    client = connect(server.base_url)
    handle = client.create_custom_loss(cross_entropy, {"logprobs": 1, "weights": 1})
    assert (handle.loss_id, handle.input_names) == (None, ("weights",))
    output = (
        client.create_lora_training_client("fake/base", rank=4)
        .forward_backward_custom([datum(1, 2)], handle)
        .result()
    )
    assert output.metrics["loss:sum"] == 3.0  # the fake's logprobs are minus the tokens
    assert output.metrics["custom/logprob:mean"] == -1.5
    assert server_engine.count("check_loss") == checked


def test_a_known_loss_is_not_sent_again(service: Any, server_engine: RecordingEngine) -> None:
    def renamed(logprobs: Any, weights: Any) -> Any:
        return cross_entropy(logprobs, weights)

    def doubled(logprobs: Any, weights: Any) -> Any:
        loss, metrics = cross_entropy(logprobs, weights)
        return 2 * loss, metrics

    checked = server_engine.count("check_loss")
    first, second, third = (
        service.create_custom_loss(fn, {"logprobs": 1, "weights": 1})
        for fn in (cross_entropy, renamed, doubled)
    )
    assert first is second
    assert first.key != third.key
    assert (first.loss_id, third.loss_id) == (
        f"{first.session_id}:loss:0",
        f"{first.session_id}:loss:1",
    )
    assert server_engine.count("check_loss") == checked + 2


def test_a_loss_of_another_session_is_refused(
    service: Any, trainer: Any, connect: Callable[..., Any], server: Server
) -> None:
    other = connect(server.base_url).create_custom_loss(
        cross_entropy, {"logprobs": 1, "weights": 1}
    )
    with pytest.raises(InvalidInputError, match="belongs to the session"):
        trainer.forward_backward_custom([datum(1)], other)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "empty"),
        ([Datum([1], {"target_tokens": [1]})], r"data\[0\].loss_fn_inputs lacks 'weights'"),
        (
            [datum(1), Datum([1], {"target_tokens": [[1, 2]], "weights": [1.0]})],
            r"data\[1\].*'target_tokens'.*shape \[1, 2\].*rank 1",
        ),
    ],
)
def test_a_batch_that_the_loss_cannot_take_is_refused_at_the_call(
    service: Any, trainer: Any, data: Any, words: str
) -> None:
    handle = service.create_custom_loss(cross_entropy, {"logprobs": 1, "weights": 1})
    with pytest.raises(InvalidInputError, match=words):
        trainer.forward_backward_custom(data, handle)


def test_a_loss_that_cannot_be_computed_fails_and_leaves_no_gradients(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    def per_token(logprobs: Any, table: Any) -> Any:
        return (logprobs * table).sum(), {}

    service = connect(torch_server.base_url)
    handle = service.create_custom_loss(per_token, {"logprobs": 1, "table": 1})
    lengths = [3, 3, 2]  # of the tables, for datums of 3 tokens: the last does not fit
    data = [
        Datum([1, 2, 3], {"target_tokens": [1, 2, 3], "table": [1.0] * length})
        for length in lengths
    ]
    trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=7)
    with pytest.raises(
        RequestFailedError, match=r"data\[2\] cannot be computed: node 'mul'.*size"
    ) as failed:
        trainer.forward_backward_custom(data, handle).result()
    assert failed.value.category == "user"
    assert trainer.optim_step(AdamParams()).result().metrics["grad_norm"] == 0.0


def branches(logprobs: Any, x: Any) -> Any:
    return (logprobs.sum() if x.sum() > 0 else x.sum()), {}


def loops(logprobs: Any, x: Any) -> Any:
    return sum(logprobs), {}


def captures(logprobs: Any, x: Any) -> Any:
    return (logprobs * torch.ones(4)).sum(), {}


def has_module(logprobs: Any, x: Any) -> Any:
    return torch.nn.Linear(4, 1)(logprobs).sum(), {}


def leaves(logprobs: Any, x: Any) -> Any:
    return logprobs.sum() * x.sum().item(), {}


def reads_gradient(logprobs: Any, x: Any) -> Any:
    return logprobs.grad.sum(), {}


def not_in_torch(logprobs: Any, x: Any) -> Any:
    return logprobs.sum() * float(x.sum()), {}


def is_complex(logprobs: Any, x: Any) -> Any:
    return logprobs.sum() * 1j, {}


def no_scalar(logprobs: Any, x: Any) -> Any:
    return logprobs, {}


def no_tuple(logprobs: Any, x: Any) -> Any:
    return logprobs.sum()


def no_tensor(logprobs: Any, x: Any) -> Any:
    return 1.0, {}


def independent(logprobs: Any, x: Any) -> Any:
    return (logprobs.detach() * x).sum(), {}


def badly_named(logprobs: Any, x: Any) -> Any:
    return logprobs.sum(), {"Ratio": x.sum()}


def metric_of_a_number(logprobs: Any, x: Any) -> Any:
    return logprobs.sum(), {"custom/x:sum": 1.0}


def metric_of_a_size(logprobs: Any, x: Any) -> Any:
    return logprobs.sum(), {"custom/x:sum": x.size(0)}


def has_default(logprobs: Any, x: Any = 1) -> Any:
    return logprobs.sum(), {}


def takes_any(logprobs: Any, *x: Any) -> Any:
    return logprobs.sum(), {}


def second_is_first(x: Any, logprobs: Any) -> Any:
    return logprobs.sum(), {}


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (branches, r"line \d+ of .* branches or loops"),
        (loops, "branches or loops"),
        (captures, r"tensor of shape \[4\] that is not one of its inputs"),
        (has_module, "not one of its inputs"),
        (leaves, r"calls \.item\(\)"),
        (reads_gradient, r"attribute \.grad"),
        (not_in_torch, "raises TypeError"),
        (is_complex, "type complex"),
        (no_scalar, r"scalar tensors: its loss is a tensor of shape \[4\]"),
        (no_tuple, r"must return \(loss, metrics\), not Proxy"),
        (no_tensor, "not a tensor computed from its inputs, but float"),
        (independent, "does not depend on the logprobs"),
        (badly_named, "'Ratio' of badly_named must be named"),
        (metric_of_a_number, "'custom/x:sum' of metric_of_a_number is not a tensor"),
        (metric_of_a_size, "custom/x:sum is a Python int"),
        (has_default, "'x' of the custom loss has_default has a default"),
        (takes_any, "'x' of the custom loss takes_any is not an ordinary positional"),
        (second_is_first, "the first parameter must be 'logprobs'"),
        (lambda logprobs, X: (logprobs.sum(), {}), "'X' .* must consist of at most 64 of a-z"),
        (lambda logprobs, y: (logprobs.sum(), {}), "input_ranks has"),
        (
            eval(
                "lambda logprobs, "
                + ", ".join(f"x{i}" for i in range(16))
                + ": (logprobs.sum(), {})"
            ),
            "at most 16",
        ),
    ],
)
def test_a_function_that_breaks_a_rule_is_refused_before_anything_is_sent(
    connect: Callable[..., Any], fn: Any, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        connect(UNREACHABLE).create_custom_loss(fn, RANKS)


@pytest.mark.parametrize("ranks", [{"logprobs": 0, "weights": 1}, {"logprobs": 1, "weights": 3}])
def test_an_impossible_rank_is_refused(ranks: Any) -> None:
    with pytest.raises(InvalidInputError, match="input_ranks"):
        trace(cross_entropy, ranks)


def test_several_targets_a_position_are_run_by_the_client() -> None:
    traced = trace(cross_entropy, {"logprobs": 2, "weights": 2})
    handle = LossHandle(
        name="mine", inputs=traced.inputs, graph=traced.graph, run=traced.run, session_id="s"
    )
    loss, metrics = handle.run(torch.full((2, 3), -1.0), torch.ones(2, 3))
    assert (float(loss), float(metrics["custom/weight:sum"])) == (6.0, 6.0)


ARGUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([torch.int64, ...]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.tuples(inner, inner, inner).map(lambda parts: slice(*parts))
    ),
    max_leaves=8,
)


@given(ARGUMENTS)
def test_the_server_reads_the_arguments_that_the_client_wrote(argument: Any) -> None:
    # repr: nan is nan
    assert repr(read_argument(write_argument(argument), {}, torch.device("cpu"))) == repr(argument)


@pytest.mark.parametrize("size", [2**63, -(2**63) - 1])
def test_integers_that_json_readers_would_change_are_refused(size: int) -> None:
    with pytest.raises(Exception, match="64 bits"):
        write_argument([size])

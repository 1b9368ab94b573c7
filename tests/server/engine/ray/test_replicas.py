"""Data-parallel training: several trainers of one base model give what one gives."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

pytest.importorskip("ray", reason="ray is not installed: `make test-ray` tests with it")

from attrs import evolve
from safetensors.numpy import load_file

from tests.support.custom_loss_graphs import LOGPROBS, node, output, ref
from tests.support.ray_cluster import START, LocalCluster, places_of, trainer_of
from tests.support.wait_until import wait_until
from tinkex_server.engine.factory import create_engine, create_torch_engine
from tinkex_server.engine.interface import (
    AdamSettings,
    CustomLoss,
    Engine,
    EngineDied,
    EngineExit,
    Example,
    InvalidRequest,
    LoraShape,
    LossResult,
)
from tinkex_server.engine.ray.settings import RaySettings

if TYPE_CHECKING:
    from tinkex_server.engine.ray.engine import RayEngine

TINY = "tinkex/tiny"
LORA = LoraShape(4, seed=1)
ADAM = AdamSettings(learning_rate=1e-3, grad_clip_norm=1.0)
TOLERANCE = 2e-5
"""The largest relative difference of losses and norms, whose sums are made in another order."""
SQUARES = CustomLoss(
    [("logprobs", 1)],
    [
        LOGPROBS,
        node("call_function", "squares", "operator.mul", ref("logprobs"), ref("logprobs")),
        node("call_method", "total", "sum", ref("squares")),
        node("call_method", "average", "mean", ref("logprobs")),
        output("total", **{"custom/squares:sum": "total", "custom/logprob:mean": "average"}),
    ],
)


def batch(step: int) -> list[Example]:
    """Makes data of different lengths, so that the halves of a batch differ in size."""
    lines = ["a", "six is 6", f"{step} and {step}", "forty two is written 42", "b c"]
    return [_text(line) for line in lines]


def _text(line: str) -> Example:
    tokens = np.frombuffer(line.encode() + b"\n", np.uint8).astype(np.int64)
    return Example(
        tokens[:-1],
        {"target_tokens": tokens[1:], "weights": np.ones(len(tokens) - 1, np.float32)},
    )


@pytest.fixture(scope="module")
def replicas(cluster: LocalCluster) -> Iterator[RayEngine]:
    settings = RaySettings(address=cluster.address, train_replicas=2)
    engine = cast("RayEngine", create_engine("torch", [TINY], ray=settings))
    try:
        engine.ready.result(START)
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def alone() -> Iterator[Engine]:
    engine = create_torch_engine([TINY])
    yield engine
    engine.close()


def forward_backward(
    engine: Engine, data: list[Example], loss: Any = "cross_entropy", *, backward: bool = True
) -> LossResult:
    return engine.forward_backward("m", data, loss, {}, backward=backward)


def new_model(*engines: Engine) -> None:
    for engine in engines:
        engine.create_model("m", TINY, LORA)


def weights(engine: Engine, folder: Path) -> Mapping[str, Any]:
    engine.save_model("m", folder, optimizer=True)
    return load_file(folder / "adapter_model.safetensors")


def test_losses_steps_and_weights_are_those_of_one_trainer(
    replicas: RayEngine, alone: Engine, tmp_path: Path
) -> None:
    new_model(replicas, alone)
    for step in range(6):
        for _ in range(2):  # gradients add up until the step
            one, two = (forward_backward(engine, batch(step)) for engine in (alone, replicas))
            assert two.metrics == pytest.approx(dict(one.metrics), rel=TOLERANCE)
            for ours, theirs in zip(two.loss_fn_outputs, one.loss_fn_outputs, strict=True):
                np.testing.assert_allclose(ours["logprobs"], theirs["logprobs"], atol=1e-4)
        one_step, two_step = (engine.optim_step("m", ADAM) for engine in (alone, replicas))
        assert two_step == pytest.approx(dict(one_step), rel=TOLERANCE)
    one_weights, two_weights = (
        weights(engine, tmp_path / name) for engine, name in ((alone, "one"), (replicas, "two"))
    )
    for name, value in one_weights.items():
        np.testing.assert_allclose(two_weights[name], value, atol=1e-5)


def test_replicas_have_the_same_weights_bit_for_bit(replicas: RayEngine) -> None:
    new_model(replicas)
    for step in range(3):
        forward_backward(replicas, batch(step))
        replicas.optim_step("m", ADAM)
    forward_backward(replicas, batch(0)[:1])  # which one of them does not see
    replicas.optim_step("m", evolve(ADAM, learning_rate=1e-2))
    first, second = (
        replicas._call(
            lambda member=member: trainer_of(replicas, TINY).call(
                "save_model", "m", True, member=member
            )
        )
        for member in range(2)
    )
    assert first.keys() == second.keys() >= {"adapter_model.safetensors", "optimizer.safetensors"}
    for name, content in first.items():
        np.testing.assert_array_equal(content, second[name])


def test_a_custom_loss_has_its_sums_and_means_over_the_whole_batch(
    replicas: RayEngine, alone: Engine
) -> None:
    new_model(replicas, alone)
    data = [
        Example(each.tokens, {"target_tokens": each.loss_inputs["target_tokens"]})
        for each in batch(1)
    ]
    one, two = (forward_backward(engine, data, SQUARES) for engine in (alone, replicas))
    assert one.metrics.keys() >= {"custom/squares:sum", "custom/logprob:mean", "loss:sum"}
    assert two.metrics == pytest.approx(dict(one.metrics), rel=TOLERANCE)
    norms = [engine.optim_step("m", ADAM)["grad_norm"] for engine in (alone, replicas)]
    assert norms[1] == pytest.approx(norms[0], rel=TOLERANCE)


def test_a_datum_that_fails_is_named_and_leaves_no_gradient_in_any_replica(
    replicas: RayEngine, alone: Engine
) -> None:
    new_model(replicas, alone)
    data = batch(2)
    data[3].loss_inputs["weights"][:] = 3e38  # type: ignore[index]  # a loss that overflows
    for engine in (alone, replicas):
        forward_backward(engine, batch(2))
        with pytest.raises(InvalidRequest, match=r"data\[3\].* no gradient of this batch was"):
            forward_backward(engine, data)
        forward_backward(engine, data[:3], backward=False)
    norms = [engine.optim_step("m", ADAM)["grad_norm"] for engine in (alone, replicas)]
    assert norms[1] == pytest.approx(norms[0], rel=TOLERANCE)
    for engine in (alone, replicas):
        assert engine.optim_step("m", ADAM)["grad_norm"] == 0, "nobody has a gradient"


def test_a_lost_replica_ends_the_group_which_is_made_anew(
    replicas: RayEngine, tmp_path: Path
) -> None:
    new_model(replicas)
    forward_backward(replicas, batch(0))
    replicas.optim_step("m", ADAM)
    replicas.save_model("m", tmp_path / "saved", optimizer=True)

    def losses() -> list[float]:
        found = []
        for step in range(1, 4):
            found.append(forward_backward(replicas, batch(step)).metrics["loss:sum"])
            replicas.optim_step("m", ADAM)
        return found

    undisturbed = losses()
    deaths: SimpleQueue[EngineExit] = SimpleQueue()
    replicas.watch(deaths.put)
    group = trainer_of(replicas, TINY)
    os.kill(places_of(group)[1].pid, signal.SIGKILL)
    death = deaths.get(timeout=START)
    assert death.resume
    death.resume()
    wait_until(lambda: trainer_of(replicas, TINY) is not group)
    with pytest.raises(EngineDied, match="the trainer of tinkex/tiny was lost"):
        replicas._call(lambda: group.call("call", "optim_step", ("m", ADAM), {}))
    new_model(replicas)
    replicas.load_model("m", tmp_path / "saved", optimizer=True)
    assert losses() == undisturbed

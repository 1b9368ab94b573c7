"""Each optimizer steps as its formula says, worked out in float64 without torch; its state goes on
bit for bit from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tinkex_server.engine.interface import (
    AdamSettings,
    DimuonSettings,
    Example,
    InvalidRequest,
    LoraShape,
    OptimizerKind,
    OptimizerSettings,
    SgdSettings,
)
from tinkex_server.engine.torch import optimizers
from tinkex_server.engine.torch.engine import TorchEngine
from tinkex_server.engine.torch.muon import orthogonalize

Array = NDArray[np.float64]
SHAPES = ((3, 7), (7, 3))
TEXT = np.frombuffer(b"forty two is 42\n", dtype=np.uint8).astype(np.int64)
BATCH = [Example(TEXT[:-1], {"target_tokens": TEXT[1:]})] * 2


def adamw(weights: Array, gradients: Sequence[Array], steps: Sequence[AdamSettings]) -> Array:
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for count, (gradient, step) in enumerate(zip(gradients, steps, strict=True), start=1):
        mean = step.beta1 * mean + (1 - step.beta1) * gradient
        square = step.beta2 * square + (1 - step.beta2) * gradient**2
        unbiased = np.sqrt(square / (1 - step.beta2**count))
        weights = weights * (1 - step.learning_rate * step.weight_decay)
        weights = weights - step.learning_rate * mean / (1 - step.beta1**count) / (
            unbiased + step.eps
        )
    return weights


def sgd(weights: Array, gradients: Sequence[Array], steps: Sequence[SgdSettings]) -> Array:
    kept = np.zeros_like(weights)
    for gradient, step in zip(gradients, steps, strict=True):
        kept = step.momentum * kept + gradient + step.weight_decay * weights
        weights = weights - step.learning_rate * kept
    return weights


def dimuon(weights: Array, gradients: Sequence[Array], steps: Sequence[DimuonSettings]) -> Array:
    """Newton-Schulz works on each singular value by itself, so it may as well be done on those."""
    mean = np.zeros_like(weights)
    for gradient, step in zip(gradients, steps, strict=True):
        mean = step.beta1 * mean + (1 - step.beta1) * gradient
        left, values, right = np.linalg.svd(mean, full_matrices=False)
        values /= np.linalg.norm(values)
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        weights = weights - step.learning_rate * (left * values) @ right
    return weights


REFERENCES: dict[OptimizerKind, tuple[Callable[..., Array], Sequence[OptimizerSettings]]] = {
    "adamw": (
        adamw,
        [
            AdamSettings(0.1, 0.8, 0.9, 1e-6, 0.1),
            AdamSettings(0.05, 0.9, 0.95),
            AdamSettings(0.2, 0.5, 0.5, 1e-3),
        ],
    ),
    "sgd": (sgd, [SgdSettings(0.1, 0.9, 0.1), SgdSettings(0.2, 0.5), SgdSettings(0.1, 0.9, 0.05)]),
    "dimuon": (dimuon, [DimuonSettings(0.1), DimuonSettings(0.05, 0.5), DimuonSettings(0.2, 0.95)]),
}


def random(shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", REFERENCES)
def test_steps_are_those_of_the_formula(kind: OptimizerKind) -> None:
    reference, steps = REFERENCES[kind]
    parameters = {
        str(index): nn.Parameter(torch.tensor(random(shape, index)))
        for index, shape in enumerate(SHAPES)
    }
    optimizer = optimizers.create_optimizer(kind, parameters, {})
    for count, step in enumerate(steps):
        for index, shape in enumerate(SHAPES):
            parameters[str(index)].grad = torch.tensor(random(shape, 10 * (count + 1) + index))
        optimizers.set_options(optimizer, step)
        optimizer.step()
    for index, shape in enumerate(SHAPES):
        gradients = [
            random(shape, 10 * (count + 1) + index).astype(np.float64)
            for count in range(len(steps))
        ]
        wanted = reference(random(shape, index).astype(np.float64), gradients, steps)
        np.testing.assert_allclose(
            parameters[str(index)].detach().numpy(), wanted, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("shape", [(4, 64), (64, 4), (1, 9)])
def test_an_orthogonalized_matrix_is_about_as_long_in_every_direction(
    shape: tuple[int, int],
) -> None:
    matrix = torch.tensor(random(shape, 1))
    values = torch.linalg.svdvals(orthogonalize(matrix * 1e-4))
    assert ((values > 0.6) & (values < 1.3)).all()
    assert torch.equal(orthogonalize(torch.zeros(shape)), torch.zeros(shape))


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(["tinkex/tiny"])


def settings_of(kind: OptimizerKind) -> OptimizerSettings:
    return {
        "adamw": AdamSettings(3e-3, weight_decay=0.01, grad_clip_norm=1.0),
        "sgd": SgdSettings(1e-2, 0.9, grad_clip_norm=1.0),
        "dimuon": DimuonSettings(1e-2, grad_clip_norm=1.0),
    }[kind]


def train(engine: TorchEngine, model_id: str, kind: OptimizerKind, steps: int = 3) -> list[float]:
    losses: list[float] = []
    for _ in range(steps):
        losses.append(
            engine.forward_backward(model_id, BATCH, "cross_entropy", {}, backward=True).metrics[
                "loss:sum"
            ]
        )
        engine.optim_step(model_id, settings_of(kind))
    return losses


@pytest.mark.parametrize("kind", REFERENCES)
def test_each_learns_and_goes_on_bit_for_bit_from_its_state(
    engine: TorchEngine, tmp_path: Path, kind: OptimizerKind
) -> None:
    engine.create_model(f"{kind} 1", "tinkex/tiny", LoraShape(rank=4, seed=1), kind)
    first = train(engine, f"{kind} 1", kind)
    engine.save_model(f"{kind} 1", tmp_path / "state", optimizer=True)
    followed = train(engine, f"{kind} 1", kind)
    assert [*first, *followed] == sorted([*first, *followed], reverse=True)
    engine.create_model(f"{kind} 2", "tinkex/tiny", LoraShape(rank=4, seed=2), kind)
    engine.load_model(f"{kind} 2", tmp_path / "state", optimizer=True)
    assert train(engine, f"{kind} 2", kind) == followed
    engine.load_model(f"{kind} 2", tmp_path / "state", optimizer=False)
    afresh = train(engine, f"{kind} 2", kind)
    assert (afresh[0] == followed[0], afresh == followed) == (True, False)


@pytest.mark.parametrize("kind", REFERENCES)
def test_a_step_or_a_state_of_another_kind_is_refused_and_changes_nothing(
    engine: TorchEngine, tmp_path: Path, kind: OptimizerKind
) -> None:
    model_id, twin = f"{kind} 3", f"{kind} 4"
    for name in (model_id, twin):
        engine.create_model(name, "tinkex/tiny", LoraShape(rank=4, seed=3), kind)
        train(engine, name, kind, 1)
    for other in cast("set[OptimizerKind]", REFERENCES.keys() - {kind}):
        with pytest.raises(
            InvalidRequest,
            match=f"with the optimizer {kind}, but this step has settings for {other}",
        ):
            engine.optim_step(model_id, settings_of(other))
        engine.create_model("other", "tinkex/tiny", LoraShape(rank=4), other)
        train(engine, "other", other, 1)
        engine.save_model("other", tmp_path / other, optimizer=True)
        with pytest.raises(
            InvalidRequest, match=f"state is of {other}, but the model was created with {kind}"
        ):
            engine.load_model(model_id, tmp_path / other, optimizer=True)
        engine.unload_model("other")
    assert train(engine, model_id, kind) == train(engine, twin, kind)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adamw/none/step": torch.tensor(1.0)}, "the model has no none"),
        ({"adamw/a/exp_avg": torch.zeros(2)}, r"no exp_avg of shape \[3\] for a"),
        ({"adamw/a/step": None}, r"no step of shape \[\] for a"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: dict[str, Any], words: str) -> None:
    saved = {
        "adamw/a/step": torch.tensor(1.0),
        "adamw/a/exp_avg": torch.zeros(3),
        "adamw/a/exp_avg_sq": torch.zeros(3),
        **change,
    }
    with pytest.raises(InvalidRequest, match=words):
        optimizers.create_optimizer(
            "adamw",
            {"a": nn.Parameter(torch.zeros(3))},
            {key: value for key, value in saved.items() if value is not None},
        )


@pytest.mark.parametrize("kind", REFERENCES)
def test_a_clipped_gradient_is_no_longer_than_asked(
    engine: TorchEngine, kind: OptimizerKind
) -> None:
    """The norm is told as it was before. Where it is clipped, a gradient ten times as large makes
    the same step.
    """
    weight, ten = {"weights": np.ones(15, np.float32)}, {"weights": np.full(15, 10, np.float32)}
    norms, after = [], []
    for inputs in (weight, ten):
        engine.create_model("clipped", "tinkex/tiny", LoraShape(rank=4, seed=5), kind)
        batch = [Example(TEXT[:-1], {"target_tokens": TEXT[1:], **inputs})]
        for _ in range(2):
            engine.forward_backward("clipped", batch, "cross_entropy", {}, backward=True)
            norms.append(engine.optim_step("clipped", settings_of(kind))["grad_norm"])
        after.append(
            engine.forward_backward("clipped", BATCH, "cross_entropy", {}, backward=False).metrics[
                "loss:sum"
            ]
        )
        engine.unload_model("clipped")
    assert norms[2] == pytest.approx(10 * norms[0], rel=1e-3)
    assert after[1] == pytest.approx(after[0], rel=1e-3)

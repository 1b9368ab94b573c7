"""A step is taken without a copy for rollback if its result is known to be finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from tinkex_server.engine.interface import (
    AdamSettings,
    InvalidRequest,
    OptimizerSettings,
    SgdSettings,
)
from tinkex_server.engine.torch import optimizers, safe_steps
from tinkex_server.engine.torch.safe_steps import SafeSteps, measure

SETTINGS = [
    AdamSettings(),
    AdamSettings(learning_rate=10.0, weight_decay=0.5, beta1=0.0),
    AdamSettings(learning_rate=1.0, beta1=0.999, beta2=0.1, eps=1.0),
    AdamSettings(learning_rate=0.0),
    SgdSettings(0.1),
    SgdSettings(3.0, momentum=0.99, weight_decay=0.5),
]


def made(kind: str, scale: float = 1.0) -> Optimizer:
    weights = {f"w{index}": nn.Parameter(scale * torch.randn(3, 5)) for index in range(2)}
    return optimizers.create_optimizer("sgd" if kind == "sgd" else "adamw", weights, {})


def give_gradients(optimizer: Optimizer, scale: float = 1.0) -> float:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for weight in weights:
        weight.grad = scale * torch.randn_like(weight)
    return float(nn.utils.get_total_norm([weight.grad for weight in weights]))


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_weight_moves_farther_than_predicted(
    settings: OptimizerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_steps, "rolled_back_unless_finite", None)  # no copy is taken
    optimizer = made(settings.kind)
    steps, foreseen = SafeSteps(optimizer), measure(optimizer)
    for number in range(40):
        norm = give_gradients(optimizer, 10.0 ** (number % 7 - 3))
        foreseen = foreseen.after(settings, 2 * norm)
        steps.take(settings, norm)
        found = measure(optimizer)
        slack = 1 + 1e-5
        assert found.weight <= foreseen.weight * slack
        assert found.mean <= foreseen.mean * slack
        assert found.square <= foreseen.square * slack


def test_weights_are_checked_again_only_when_they_may_have_moved_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[Optimizer] = []

    def look(optimizer: Optimizer) -> safe_steps.Magnitudes:
        looked.append(optimizer)
        return measure(optimizer)

    monkeypatch.setattr(safe_steps, "measure", look)
    optimizer = made("adamw")
    steps = SafeSteps(optimizer)
    for _ in range(50):
        steps.take(AdamSettings(), give_gradients(optimizer))
    assert len(looked) == 1
    # may come far, and does
    steps.take(AdamSettings(learning_rate=1e25), give_gradients(optimizer))
    for _ in range(2):
        steps.take(AdamSettings(), give_gradients(optimizer))
    assert len(looked) == 3  # for the far one, and once after it


def negative_square(optimizer: Optimizer) -> None:
    for state in optimizer.state.values():
        state["exp_avg_sq"][0, 0] = -1e30


def no_number_of_steps(optimizer: Optimizer) -> None:
    for state in optimizer.state.values():
        state["step"].fill_(math.nan)


@pytest.mark.parametrize("spoil", [negative_square, no_number_of_steps])
def test_an_optimizer_state_that_no_step_can_produce_makes_nothing_infinite(
    spoil: Callable[[Optimizer], None],
) -> None:
    optimizer = made("adamw")
    SafeSteps(optimizer).take(AdamSettings(), give_gradients(optimizer))
    spoil(optimizer)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    before = [weight.detach().clone() for weight in weights]
    with pytest.raises(InvalidRequest, match="not applied"):
        SafeSteps(optimizer).take(AdamSettings(), give_gradients(optimizer))
    assert all(torch.equal(weight, value) for weight, value in zip(weights, before, strict=True))


@pytest.mark.parametrize(
    "settings",
    [AdamSettings(eps=1e-300), AdamSettings(beta2=1 - 1e-12), AdamSettings(beta1=1 - 1e-12)],
)
def test_settings_that_a_float32_cannot_hold_make_nothing_infinite(settings: AdamSettings) -> None:
    optimizer = made("adamw")
    norm = give_gradients(optimizer)
    first = optimizer.param_groups[0]["params"][0]
    first.grad[0, 0] = 0  # 0 by 0, where eps is lost
    before = first.detach().clone()
    try:
        SafeSteps(optimizer).take(settings, norm)
    except InvalidRequest:
        assert torch.equal(first, before)
    assert first.isfinite().all()


def test_a_step_that_ends_near_the_largest_float_is_taken_and_one_beyond_it_is_not() -> None:
    optimizer = made("sgd", 1e37)
    steps = SafeSteps(optimizer)
    steps.take(SgdSettings(1.0), give_gradients(optimizer))
    assert 1e36 < measure(optimizer).weight < math.inf
    with pytest.raises(InvalidRequest, match="not applied"):
        steps.take(SgdSettings(3e38), give_gradients(optimizer, 10.0))
    assert measure(optimizer).weight < math.inf

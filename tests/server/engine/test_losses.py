"""Every loss and its gradient are those of its formula, worked out in float64 without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tinkex_server.engine.interface import Example, InvalidRequest
from tinkex_server.engine.torch.losses import LOSSES, find_loss

Array = NDArray[np.float64]
Inputs = Mapping[str, Array]
Config = Mapping[str, float]
Reference = Callable[[Array, Inputs, Config], tuple[Array, Array]]
"""A function of logprobs, inputs and settings that returns the losses, and the derivative of each
loss with respect to its own logprob.
"""


def cross_entropy(p: Array, inputs: Inputs, config: Config) -> tuple[Array, Array]:
    return -p, -np.ones_like(p)


def importance_sampling(p: Array, inputs: Inputs, config: Config) -> tuple[Array, Array]:
    loss = -np.exp(p - inputs["logprobs"]) * inputs["advantages"]
    return loss, loss


def ppo(p: Array, inputs: Inputs, config: Config) -> tuple[Array, Array]:
    return clipped(np.exp(p - inputs["logprobs"]), inputs, config)


def cispo(p: Array, inputs: Inputs, config: Config) -> tuple[Array, Array]:
    weight = np.clip(np.exp(p - inputs["logprobs"]), *bounds(inputs, config)) * inputs["advantages"]
    return -weight * p, -weight


def dro(p: Array, inputs: Inputs, config: Config) -> tuple[Array, Array]:
    beta, distance = config.get("beta", 0.05), p - inputs["logprobs"]
    return -(p * inputs["advantages"] - beta / 2 * distance**2), beta * distance - inputs[
        "advantages"
    ]


def gspo(p: Array, inputs: Inputs, config: Config) -> tuple[Array, Array]:
    counted = inputs["sequence_ratio_mask"] != 0
    ratio = np.prod(np.exp(p - inputs["logprobs"])[counted]) ** (1 / counted.sum())
    return clipped(np.full_like(p, ratio), inputs, config)


def clipped(ratio: Array, inputs: Inputs, config: Config) -> tuple[Array, Array]:
    """Computes the clipped loss, which has no gradient where the ratio is out of bounds on the side
    that its advantage favours.
    """
    low, high = bounds(inputs, config)
    advantages = inputs["advantages"]
    held = np.where(advantages > 0, ratio > high, ratio < low)
    loss = -advantages * np.where(held, np.clip(ratio, low, high), ratio)
    return loss, np.where(held, 0, loss)


def bounds(inputs: Inputs, config: Config) -> tuple[Any, Any]:
    low = inputs.get("clip_low_threshold", config.get("clip_low_threshold", 0.8))
    high = inputs.get("clip_high_threshold", config.get("clip_high_threshold", 1.2))
    return low, high


REFERENCES: Mapping[str, Reference] = {
    "cross_entropy": cross_entropy,
    "importance_sampling": importance_sampling,
    "ppo": ppo,
    "cispo": cispo,
    "dro": dro,
    "gspo": gspo,
}
CLIPPED = ("ppo", "cispo", "gspo")


def arrays(
    shape: tuple[int, ...], low: float, high: float
) -> st.SearchStrategy[NDArray[np.float32]]:
    """Returns arrays on a grid of odd steps, so that no ratio falls on a bound, where the gradient
    is not unique.
    """
    steps = st.integers(0, 64).map(lambda step: low + (high - low) * (2 * step + 1) / 131)
    return hnp.arrays(np.float32, shape, elements=steps.map(lambda value: float(np.float32(value))))


@st.composite
def cases(
    draw: st.DrawFn,
) -> tuple[str, NDArray[np.float32], dict[str, NDArray[np.float32]], dict[str, float]]:
    """A loss, logprobs, inputs and settings; weights, bounds and settings are there or not."""
    name = draw(st.sampled_from(sorted(REFERENCES)))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=2)))
    ranges = {"logprobs": (-3, 0), "advantages": (-2, 2)} if name != "cross_entropy" else {}
    config: dict[str, float] = {}
    if draw(st.booleans()):
        ranges["weights"] = (-1, 2)
    if name in CLIPPED and draw(st.booleans()):
        ranges |= {"clip_low_threshold": (0.1, 0.9), "clip_high_threshold": (1.1, 3)}
    if name in CLIPPED and draw(st.booleans()):
        config = {
            "clip_low_threshold": draw(st.floats(0.1, 0.9)),
            "clip_high_threshold": draw(st.floats(1.1, 3)),
        }
    if name == "dro" and draw(st.booleans()):
        config = {"beta": draw(st.floats(0, 2))}
    inputs = {key: draw(arrays(shape, *limits)) for key, limits in ranges.items()}
    if name == "gspo":
        mask = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0])))
        mask.flat[draw(st.integers(0, mask.size - 1))] = 1.0
        inputs["sequence_ratio_mask"] = mask
    return name, draw(arrays(shape, -3, 0)), inputs, config


@given(cases())
def test_a_loss_and_its_gradient_are_those_of_its_formula(case: Any) -> None:
    name, values, inputs, config = case
    wanted, slopes = REFERENCES[name](
        values.astype(np.float64),
        {key: array.astype(np.float64) for key, array in inputs.items()},
        config,
    )
    weights = inputs.get("weights", np.float32(1)).astype(np.float64)
    logprobs = torch.tensor(values, requires_grad=True)
    example = Example(
        np.zeros(len(values), np.int64),
        {"target_tokens": np.zeros(values.shape, np.int64), **inputs},
    )
    loss = find_loss(name, config)
    loss.check(0, example)
    losses, _ = loss(logprobs, 0, example)
    losses.sum().backward()
    np.testing.assert_allclose(losses.detach().numpy(), wanted * weights, rtol=2e-5, atol=2e-5)
    assert logprobs.grad is not None
    np.testing.assert_allclose(logprobs.grad.numpy(), slopes * weights, rtol=2e-5, atol=2e-5)


def test_every_loss_has_a_reference() -> None:
    assert REFERENCES.keys() == LOSSES.keys()


@pytest.mark.parametrize("name", REFERENCES)
def test_an_unknown_setting_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} has no setting 'clip_ratio'"):
        find_loss(name, {"clip_ratio": 0.2})


def example(**changes: Any) -> Example:
    """A datum of two tokens that has what any loss needs; None takes an input out."""
    inputs = dict.fromkeys(
        ("logprobs", "advantages", "sequence_ratio_mask"), np.ones(2, np.float32)
    )
    inputs = {"target_tokens": np.ones(2, np.int64), **inputs, **changes}
    return Example(
        np.ones(2, np.int64), {name: value for name, value in inputs.items() if value is not None}
    )


@pytest.mark.parametrize(
    ("loss", "name"),
    [(name, needed) for name, known in LOSSES.items() for needed in known.required],
)
def test_a_missing_input_is_named(loss: str, name: str) -> None:
    with pytest.raises(
        InvalidRequest, match=rf"data\[3\].loss_fn_inputs lacks '{name}', which {loss} needs"
    ):
        find_loss(loss, {}).check(3, example(**{name: None}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"advantages": np.ones(3, np.float32)},
            r"data\[0\].loss_fn_inputs\['advantages'\] has the shape \[3\]",
        ),
        (
            {"weights": np.ones((2, 1), np.float32)},
            r"\['weights'\] has the shape \[2, 1\], but the targets have \[2\]",
        ),
        ({"sequence_ratio_mask": np.zeros(2, np.float32)}, "0 everywhere"),
    ],
)
def test_an_input_that_does_not_fit_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        find_loss("gspo", {}).check(0, example(**changes))


def test_gspo_of_one_advantage_moves_as_the_paper_s_sequence_objective_does() -> None:
    """N times the derivative of -min(s, clip(s)) * A, where s is the N-th root of the product of
    the ratios.
    """
    old, advantage = torch.tensor([-1.0, -2.0, -0.5]), 1.5
    by_token, by_sequence = (torch.tensor([-1.1, -1.8, -0.5], requires_grad=True) for _ in range(2))
    inputs = {"logprobs": old.numpy(), "advantages": np.full(3, advantage, np.float32)}
    ours = Example(
        np.zeros(3, np.int64),
        {"target_tokens": np.zeros(3, np.int64), **inputs, "sequence_ratio_mask": np.ones(3)},
    )
    find_loss("gspo", {})(by_token, 0, ours)[0].sum().backward()
    (-3 * advantage * torch.exp((by_sequence - old).mean())).backward()
    assert by_token.grad is not None
    torch.testing.assert_close(by_token.grad, by_sequence.grad)

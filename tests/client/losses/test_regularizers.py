"""Regularizers have the values of their formulas, and the gradients of finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.batches import text_datum
from tinkex import AdamParams, Datum, InvalidInputError, ServiceClient, TensorData
from tinkex.local import Server
from tinkex.losses.custom import evaluate, linearized
from tinkex.regularizers import (
    Regularizer,
    Weighted,
    consistency,
    elastic_net,
    entropy,
    gradient_penalty,
    kl_divergence,
    l1,
    l2,
    orthogonality,
    regularized,
)

Logprobs = list[torch.Tensor]

WEIGHTS = ([1.0, 0.0, 2.0], [1.0, -1.0], [1.0, 0.0, 0.0, 1.0])
LOGPROBS = ([-0.5, -9.0, -1.5], [-2.0, -0.25], [-3.0, -9.0, -9.0, -0.75])
REFERENCE = ([-1.5, -2.0, -0.5], [-2.5, -1.0], [-0.5, -2.0, -2.0, -1.25])
COUNTED = np.array([-0.5, -1.5, -2.0, -0.25, -3.0, -0.75])
OTHERS = np.array([-1.5, -0.5, -2.5, -1.0, -0.5, -1.25])


def batch() -> list[Datum]:
    return [
        Datum(
            model_input=[1] * len(w),
            loss_fn_inputs={"target_tokens": [2] * len(w), "weights": w, "ref": r},
        )
        for w, r in zip(WEIGHTS, REFERENCE, strict=True)
    ]


def wide_batch() -> list[Datum]:
    """Several targets a position, without weights."""
    return [
        Datum(
            model_input=[1, 2],
            loss_fn_inputs={
                "target_tokens": np.ones((2, 3), np.int64),
                "ref": np.full((2, 3), -1.25),
            },
        ),
        Datum(
            model_input=[1],
            loss_fn_inputs={
                "target_tokens": np.ones((1, 3), np.int64),
                "ref": np.full((1, 3), -0.75),
            },
        ),
    ]


def tensors(rows: Sequence[Any] = LOGPROBS) -> Logprobs:
    return [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in rows]


def squares(data: Sequence[Datum], logprobs: Logprobs) -> tuple[torch.Tensor, dict[str, float]]:
    """Not linear, so that it has a second derivative."""
    return torch.stack(
        [(x.square().sum() * (1 + index)) for index, x in enumerate(logprobs)]
    ).sum(), {"mine": 3.0}


def negative_sum(
    data: Sequence[Datum], logprobs: Logprobs
) -> tuple[torch.Tensor, dict[str, float]]:
    return -torch.cat([x.flatten() for x in logprobs]).sum(), {"mine": 3.0}


def penalty_at_one_point(data: Sequence[Datum], logprobs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Draws the same point at each call, so that finite differences are those of one function."""
    return gradient_penalty(
        squares, 2.0, reference="ref", generator=torch.Generator().manual_seed(3)
    )(data, logprobs)


REGULARIZERS: dict[str, Callable[[], Regularizer]] = {
    "l1": l1,
    "l1 sum": lambda: l1(reduction="sum"),
    "l2": l2,
    "elastic_net": lambda: elastic_net(0.3),
    "entropy": entropy,
    "entropy maximize": lambda: entropy("maximize", reduction="sum"),
    "kl forward": lambda: kl_divergence("ref"),
    "kl reverse": lambda: kl_divergence("ref", "reverse"),
    "kl symmetric": lambda: kl_divergence("ref", "symmetric"),
    "consistency mse": lambda: consistency("ref"),
    "consistency l1": lambda: consistency("ref", "l1"),
    "consistency kl": lambda: consistency("ref", "kl"),
    "consistency cosine": lambda: consistency("ref", "cosine"),
    "orthogonality soft": orthogonality,
    "orthogonality hard": lambda: orthogonality("hard", normalize=False),
    "orthogonality spectral": lambda: orthogonality("spectral", normalize=False),
    "gradient_penalty": lambda: gradient_penalty(squares, 2.0),
    "gradient_penalty between": lambda: penalty_at_one_point,
}


@pytest.mark.parametrize("make", REGULARIZERS.values(), ids=REGULARIZERS.keys())
@pytest.mark.parametrize("wide", [False, True], ids=["one target", "several targets"])
def test_gradients_are_those_of_finite_differences(
    make: Callable[[], Regularizer], wide: bool
) -> None:
    data = wide_batch() if wide else batch()
    random = np.random.default_rng(5)
    logprobs = tensors(
        [-3 * random.random(datum.loss_fn_inputs["target_tokens"].shape) for datum in data]
    )
    regularizer = make()
    assert torch.autograd.gradcheck(
        lambda *given: regularizer(data, given), logprobs, eps=1e-6, atol=1e-7
    )


def gram(normalize: bool) -> np.ndarray[Any, Any]:
    rows = np.array([[-0.5, 0.0, -1.5, 0.0], [-2.0, -0.25, 0.0, 0.0], [-3.0, 0.0, 0.0, -0.75]])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize else rows
    return rows @ rows.T


def off_diagonal(matrix: np.ndarray[Any, Any]) -> float:
    return float(sum(matrix[i, j] ** 2 for i in range(3) for j in range(3) if i != j))


P, Q = np.exp(COUNTED), np.exp(OTHERS)
ALL = np.concatenate(LOGPROBS)


@pytest.mark.parametrize(
    ("regularizer", "expected"),
    [
        (l1(), np.abs(COUNTED).mean()),
        (l1(reduction="sum"), np.abs(COUNTED).sum()),
        (l2(), (COUNTED**2).mean()),
        (elastic_net(0.25), (0.25 * np.abs(COUNTED) + 0.75 * COUNTED**2).mean()),
        (entropy(), (-P * COUNTED).mean()),
        (entropy("maximize"), (P * COUNTED).mean()),
        (kl_divergence("ref"), (P * np.log(P / Q) - P + Q).mean()),
        (kl_divergence("ref", "reverse"), (Q * np.log(Q / P) - Q + P).mean()),
        (kl_divergence("ref", "symmetric"), ((P - Q) * np.log(P / Q) / 2).mean()),
        (consistency("ref"), ((COUNTED - OTHERS) ** 2).mean()),
        (consistency("ref", "l1", reduction="sum"), np.abs(COUNTED - OTHERS).sum()),
        (consistency("ref", "kl"), ((P - Q) * np.log(P / Q) / 2).mean()),
        (
            consistency("ref", "cosine"),
            1 - COUNTED @ OTHERS / (np.linalg.norm(COUNTED) * np.linalg.norm(OTHERS)),
        ),
        (orthogonality(), off_diagonal(gram(True))),
        (orthogonality("hard", normalize=False), ((gram(False) - np.eye(3)) ** 2).sum()),
        (
            orthogonality("spectral", normalize=False),
            off_diagonal(gram(False)) + (gram(False).trace() - 3) ** 2,
        ),
        (
            gradient_penalty(squares, 1.5),
            (
                np.linalg.norm(
                    np.concatenate([2 * (1 + i) * np.array(x) for i, x in enumerate(LOGPROBS)])
                )
                - 1.5
            )
            ** 2,
        ),
        (gradient_penalty(negative_sum, 1.0), (math.sqrt(len(ALL)) - 1) ** 2),
    ],
)
def test_values_are_those_of_the_formulas(regularizer: Regularizer, expected: float) -> None:
    value = regularizer(batch(), tensors())
    assert value.shape == ()
    assert value.item() == pytest.approx(float(expected), rel=1e-6)


def distributions(count: int) -> st.SearchStrategy[list[float]]:
    """Logprobs of a whole vocabulary."""
    return st.lists(st.floats(-4, 4), min_size=count, max_size=count).map(
        lambda scores: torch.log_softmax(torch.tensor(scores, dtype=torch.float64), 0).tolist()
    )


@given(distributions(5), distributions(5))
def test_over_the_whole_vocabulary_they_equal_the_exact_entropy_and_divergence(
    p: list[float], q: list[float]
) -> None:
    data = [Datum(model_input=[1], loss_fn_inputs={"target_tokens": [[0, 1, 2, 3, 4]]})]
    log_p, log_q = (
        [torch.tensor([p], dtype=torch.float64)],
        [torch.tensor([q], dtype=torch.float64)],
    )
    true_p, true_q = (torch.distributions.Categorical(logits=x[0]) for x in (log_p, log_q))
    assert entropy()(data, log_p).item() == pytest.approx(true_p.entropy().item(), abs=1e-9)
    forward, reverse = (
        torch.distributions.kl_divergence(*pair).item()
        for pair in ((true_p, true_q), (true_q, true_p))
    )
    for direction, expected in (
        ("forward", forward),
        ("reverse", reverse),
        ("symmetric", (forward + reverse) / 2),
    ):
        assert kl_divergence(log_q, direction)(data, log_p).item() == pytest.approx(
            expected, abs=1e-9
        )  # type: ignore[arg-type]


@given(st.floats(-8, 0), st.floats(-8, 0), st.sampled_from(["forward", "reverse", "symmetric"]))
def test_the_divergence_draws_one_target_to_the_reference(
    p: float, q: float, direction: Any
) -> None:
    data = [Datum(model_input=[1], loss_fn_inputs={"target_tokens": [1]})]
    logprob = torch.tensor([p], dtype=torch.float64, requires_grad=True)
    value = kl_divergence([[q]], direction)(data, [logprob])
    value.backward()
    assert value.item() >= -1e-12
    assert logprob.grad is not None
    assert logprob.grad.item() * (p - q) >= 0


@pytest.mark.parametrize("make", [l1, l2, entropy, lambda: kl_divergence("ref"), orthogonality])
def test_excluded_positions_have_no_gradient_even_if_they_are_nan(
    make: Callable[[], Regularizer],
) -> None:
    rows = [np.where(np.array(w) == 0, np.nan, x) for w, x in zip(WEIGHTS, LOGPROBS, strict=True)]
    logprobs = tensors(rows)
    gradients = torch.autograd.grad(make()(batch(), logprobs), logprobs)
    for weights, gradient in zip(WEIGHTS, gradients, strict=True):
        assert gradient.isfinite().all()
        assert gradient[torch.tensor(weights) == 0].count_nonzero() == 0
    assert any(gradient.count_nonzero() for gradient in gradients)


@pytest.mark.parametrize(
    "make", [l1, l2, elastic_net, entropy, lambda: kl_divergence("ref"), lambda: consistency("ref")]
)
def test_without_counted_positions_the_value_is_zero(make: Callable[[], Regularizer]) -> None:
    data = [
        Datum(
            model_input=[1], loss_fn_inputs={"target_tokens": [2], "weights": [0.0], "ref": [-1.0]}
        )
    ]
    assert make()(data, [torch.tensor([-1.0])]).item() == 0


def test_a_reference_is_an_input_a_list_or_a_function() -> None:
    expected = consistency("ref")(batch(), tensors()).item()
    for reference in (
        REFERENCE,
        tensors(REFERENCE),
        lambda data: [datum.loss_fn_inputs["ref"].tolist() for datum in data],
    ):
        assert consistency(reference)(batch(), tensors()).item() == pytest.approx(expected)


def test_the_point_between_logprobs_and_reference_is_the_generators() -> None:
    def penalty(seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        return gradient_penalty(squares, 0.0, reference="ref", generator=generator)(
            batch(), tensors()
        ).item()

    share = torch.rand((), generator=torch.Generator().manual_seed(3)).item()
    points = [
        share * np.array(x) + (1 - share) * np.array(r)
        for x, r in zip(LOGPROBS, REFERENCE, strict=True)
    ]
    expected = sum(((2 * (1 + index) * point) ** 2).sum() for index, point in enumerate(points))
    assert penalty(3) == pytest.approx(float(expected), rel=1e-5)
    assert penalty(3) != penalty(4)


def test_the_loss_is_the_weighted_sum_and_the_metrics_say_of_what() -> None:
    terms = [
        Weighted(l1(), 0.5, "l1"),
        Weighted(kl_divergence("ref"), 2.0, "kl"),
        Weighted(l2(), 0.0, "off"),
    ]
    logprobs, data = tensors(), batch()
    loss, metrics = regularized(negative_sum, terms)(data, logprobs)
    values = {term.name: term.regularizer(data, logprobs).item() for term in terms}
    total = 0.5 * values["l1"] + 2.0 * values["kl"]
    assert loss.item() == pytest.approx(-ALL.sum() + total)
    assert metrics == pytest.approx(
        {
            "mine": 3.0,
            "base_loss": -ALL.sum(),
            "regularizer_total": total,
            "regularizers/l1/value": values["l1"],
            "regularizers/l1/weight": 0.5,
            "regularizers/l1/contribution": 0.5 * values["l1"],
            "regularizers/kl/value": values["kl"],
            "regularizers/kl/weight": 2.0,
            "regularizers/kl/contribution": 2.0 * values["kl"],
            "regularizers/off/value": values["off"],
            "regularizers/off/weight": 0.0,
            "regularizers/off/contribution": 0.0,
        }
    )


def test_gradient_norms_are_those_of_each_term_alone() -> None:
    terms = [Weighted(l1(reduction="sum"), 0.5, "l1"), Weighted(l2(reduction="sum"), 3.0, "l2")]
    _, metrics = regularized(negative_sum, terms, track_grad_norms=True)(batch(), tensors())
    counts = np.concatenate(WEIGHTS) != 0
    of_l1, of_l2 = np.where(counts, -1.0, 0.0), np.where(counts, 2 * ALL, 0.0)
    norms = {name: value for name, value in metrics.items() if "grad_norm" in name}
    assert norms == pytest.approx(
        {
            "base_loss/grad_norm": math.sqrt(len(ALL)),
            "total_grad_norm": np.linalg.norm(-1 + 0.5 * of_l1 + 3 * of_l2),
            "regularizers/l1/grad_norm": np.linalg.norm(of_l1),
            "regularizers/l1/grad_norm_weighted": 0.5 * np.linalg.norm(of_l1),
            "regularizers/l2/grad_norm": np.linalg.norm(of_l2),
            "regularizers/l2/grad_norm_weighted": 3 * np.linalg.norm(of_l2),
        }
    )


def test_a_constant_term_has_a_gradient_norm_of_zero() -> None:
    terms = [
        Weighted(lambda data, logprobs: torch.tensor(4.0), 1.0, "constant"),
        Weighted(gradient_penalty(negative_sum), 1.0, "gp"),
    ]
    _, metrics = regularized(negative_sum, terms, track_grad_norms=True)(batch(), tensors())
    assert metrics["regularizers/constant/grad_norm"] == metrics["regularizers/gp/grad_norm"] == 0


@pytest.mark.parametrize("track", [False, True])
def test_a_regularized_loss_works_as_a_custom_loss(track: bool) -> None:
    data = batch()
    outputs = [{"logprobs": TensorData(row)} for row in LOGPROBS]
    terms = [
        Weighted(l2(reduction="sum"), 0.5, "l2"),
        Weighted(gradient_penalty(squares, 0.0), 0.25, "gp"),
    ]
    evaluated = evaluate(data, outputs, regularized(squares, terms, track_grad_norms=track))
    assert ("total_grad_norm" in evaluated.metrics) is track
    for index, datum in enumerate(linearized(data, evaluated.gradients)):
        x, counts, factor = np.array(LOGPROBS[index]), np.array(WEIGHTS[index]) != 0, 1 + index
        expected = -(2 * factor * x + np.where(counts, x, 0) + 0.25 * 8 * factor**2 * x)
        np.testing.assert_allclose(datum.loss_fn_inputs["weights"].to_numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Weighted(l1(), -0.1, "a"), "weight of 'a'.*0 or more, not -0.1"),
        (lambda: Weighted(l1(), math.nan, "a"), "weight of 'a'"),
        (lambda: Weighted(l1(), math.inf, "a"), "weight of 'a'"),
        (lambda: Weighted(l1(), 1.0, ""), "name of a regularizer is empty"),
        (
            lambda: regularized(squares, [Weighted(l1(), 1.0, "a"), Weighted(l2(), 1.0, "a")]),
            "the same name",
        ),
        (lambda: elastic_net(1.5), "l1_ratio.*from 0 to 1"),
        (lambda: entropy("more"), "mode must be one of 'minimize', 'maximize', not 'more'"),  # type: ignore[arg-type]
        (lambda: kl_divergence("ref", "both"), "direction"),  # type: ignore[arg-type]
        (lambda: consistency("ref", "l3"), "metric"),  # type: ignore[arg-type]
        (lambda: orthogonality("firm"), "mode"),  # type: ignore[arg-type]
        (lambda: l1(reduction="max"), "reduction"),  # type: ignore[arg-type]
        (lambda: gradient_penalty(squares, -1.0), "target_norm"),
        (lambda: consistency()(batch(), tensors()), r"data\[0\].*lacks 'original_logprobs'"),
        (lambda: consistency(REFERENCE[:2])(batch(), tensors()), "2 reference logprobs for 3"),
        (
            lambda: consistency([[0.0], *REFERENCE[1:]])(batch(), tensors()),
            r"reference for data\[0\].*\[1\].*\[3\]",
        ),
        (
            lambda: l1()(batch(), tensors([[-1.0], *LOGPROBS[1:]])),
            r"data\[0\] has weights of shape \[3\]",
        ),
        (
            lambda: gradient_penalty(lambda data, x: (torch.tensor(1.0), {}))(batch(), tensors()),
            "gradient_penalty does not depend on the logprobs",
        ),
        (
            lambda: regularized(squares, [Weighted(lambda data, x: x[0], 1.0, "own")])(
                batch(), tensors()
            ),
            r"'own'.*one value, not a tensor of shape \[3\]",
        ),
        (
            lambda: regularized(lambda data, x: (1.0, {}), [])(batch(), tensors()),
            "'base_loss'.*not float",
        ),  # type: ignore[arg-type]
        (
            lambda: regularized(squares, [], track_grad_norms=True)(
                batch(), [x.detach() for x in tensors()]
            ),
            "require gradients",
        ),
    ],
)
def test_mistakes_are_refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        call()


def test_a_consistency_term_keeps_the_model_closer_to_its_start(torch_server: Server) -> None:
    plain = text_datum("forty two is", " 42\n")
    with ServiceClient(base_url=torch_server.base_url, api_key="tml-test") as service:

        def drift(weight: float) -> float:
            trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=7)
            start = (
                trainer.forward([plain], "cross_entropy").result().loss_fn_outputs[0]["logprobs"]
            )
            data = [
                Datum(
                    model_input=plain.model_input,
                    loss_fn_inputs={**plain.loss_fn_inputs, "start": start},
                )
            ]
            loss_fn = regularized(
                negative_sum,
                [Weighted(consistency("start"), weight, "start")],
                track_grad_norms=True,
            )
            for _ in range(3):
                output = trainer.forward_backward_custom(data, loss_fn).result()
                trainer.optim_step(AdamParams(learning_rate=5e-3)).result()
            assert output.metrics["regularizers/start/weight"] == weight
            assert output.metrics["total_grad_norm"] > 0
            return output.metrics["regularizers/start/value"]

        free, held = drift(0.0), drift(50.0)
    assert 0 < held < free / 4

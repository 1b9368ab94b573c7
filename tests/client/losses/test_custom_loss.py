"""A loss that is computed in the client trains the model like the same loss on the server."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.batches import datum, text_batch
from tinkex import (
    AdamParams,
    APIResponseValidationError,
    ChunkLimits,
    Config,
    Datum,
    ForwardBackwardOutput,
    InvalidInputError,
    ModelInput,
    ServiceClient,
    TensorData,
)
from tinkex.dialects.dialect import Dialect
from tinkex.dialects.table import DIALECTS
from tinkex.local import Server
from tinkex.losses.custom import (
    CustomLoss,
    NumpyLoss,
    custom_output,
    evaluate,
    forward_data,
    linearized,
    linearized_by_ratios,
)
from tinkex.training import chunking
from tinkex.types import LossFnOutput

FLOAT32 = st.floats(-1e6, 1e6, width=32)
Logprobs = list[torch.Tensor]


def batch_of(weights: Sequence[Sequence[float]]) -> list[Datum]:
    return [
        Datum(
            model_input=[1] * len(row),
            loss_fn_inputs={"target_tokens": [2] * len(row), "weights": np.array(row, np.float32)},
        )
        for row in weights
    ]


def outputs_of(*logprobs: Any) -> list[LossFnOutput]:
    return [
        {"logprobs": TensorData.received(np.array(row, np.float32), "float32")} for row in logprobs
    ]


def inputs(data: Sequence[Datum], name: str) -> list[torch.Tensor]:
    return [datum.loss_fn_inputs[name].to_torch() for datum in data]


def cross_entropy(
    data: Sequence[Datum], logprobs: Logprobs
) -> tuple[torch.Tensor, dict[str, float]]:
    terms = [(-w * x).sum() for w, x in zip(inputs(data, "weights"), logprobs, strict=True)]
    return torch.stack(terms).sum(), {"custom/datums:sum": float(len(data))}


def cross_entropy_by_numpy(
    data: Sequence[Datum], logprobs: list[NDArray[Any]]
) -> tuple[float, list[Any], dict[str, float]]:
    weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in data]
    loss = -sum(float((w * x).sum()) for w, x in zip(weights, logprobs, strict=True))
    return loss, [-w for w in weights], {"custom/datums:sum": float(len(data))}


def importance_sampling(
    data: Sequence[Datum], logprobs: Logprobs
) -> tuple[torch.Tensor, dict[str, float]]:
    ratios = [torch.exp(x - q) for x, q in zip(logprobs, inputs(data, "logprobs"), strict=True)]
    terms = [-(r * a).sum() for r, a in zip(ratios, inputs(data, "advantages"), strict=True)]
    return torch.stack(terms).sum(), {"ratio:max": torch.cat(ratios).max()}  # type: ignore[dict-item] # a tensor will do


@pytest.mark.parametrize(
    "loss_fn", [cross_entropy, NumpyLoss(cross_entropy_by_numpy)], ids=["torch", "numpy"]
)
@given(
    rows=st.lists(st.lists(FLOAT32, min_size=1, max_size=6), min_size=1, max_size=5),
    random=st.randoms(),
)
def test_cross_entropy_gives_the_weights_that_it_was_given(
    loss_fn: CustomLoss, rows: list[list[float]], random: Any
) -> None:
    data = batch_of(rows)
    outputs = outputs_of(*([random.uniform(-20, 0) for _ in row] for row in rows))
    evaluated = evaluate(data, outputs, loss_fn)
    sent = linearized(data, evaluated.gradients)
    assert [datum.loss_fn_inputs["weights"] for datum in sent] == [
        datum.loss_fn_inputs["weights"] for datum in data
    ]
    assert [datum.model_input for datum in sent] == [datum.model_input for datum in data]
    products = [
        np.dot(row, output["logprobs"].to_numpy())
        for row, output in zip(rows, outputs, strict=True)
    ]
    size = sum(
        np.abs(row) @ np.abs(output["logprobs"].to_numpy())
        for row, output in zip(rows, outputs, strict=True)
    )
    assert evaluated.loss == pytest.approx(-sum(products), abs=1e-5 * size + 1e-6)
    assert evaluated.metrics == {"custom/datums:sum": len(rows)}


@given(st.lists(st.floats(-20, 0, width=32), min_size=1, max_size=20))
def test_the_weights_are_the_negative_slope_of_any_loss(logprobs: list[float]) -> None:
    def loss_fn(data: Sequence[Datum], given: Logprobs) -> tuple[torch.Tensor, dict[str, float]]:
        return torch.exp(given[0]).sum() + given[0].square().sum(), {}

    data = batch_of([[1.0] * len(logprobs)])
    [sent] = linearized(data, evaluate(data, outputs_of(logprobs), loss_fn).gradients)
    expected = -(np.exp(logprobs) + 2 * np.array(logprobs))
    np.testing.assert_allclose(
        sent.loss_fn_inputs["weights"].to_numpy(), expected, rtol=1e-5, atol=1e-6
    )


def test_tokens_that_the_loss_does_not_use_have_a_weight_of_zero() -> None:
    def loss_fn(data: Sequence[Datum], logprobs: Logprobs) -> tuple[torch.Tensor, dict[str, float]]:
        return -logprobs[1][torch.tensor([True, False, True])].sum(), {}

    data = batch_of([[1.0], [1.0, 1.0, 1.0]])
    sent = linearized(
        data, evaluate(data, outputs_of([-1.0], [-1.0, np.nan, -1.0]), loss_fn).gradients
    )
    weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in sent]
    assert [row.tolist() for row in weights] == [[0.0], [1.0, 0.0, 1.0]]
    assert not np.signbit(np.concatenate(weights)).any()  # no -0.0


def test_the_advantages_are_the_negative_slope_too() -> None:
    """A datum's weights of both signs come to nothing where its loss is divided by their sum, and
    advantages do not.
    """
    data, outputs = batch_of([[1.0, 1.0], [1.0]]), outputs_of([-1.0, -2.0], [-3.0])
    sent = linearized_by_ratios(data, [np.array([0.5, -0.5]), None], outputs)
    assert [sorted(datum.loss_fn_inputs) for datum in sent] == [
        ["advantages", "logprobs", "target_tokens"]
    ] * 2
    assert [datum.loss_fn_inputs["advantages"].tolist() for datum in sent] == [[-0.5, 0.5], [0.0]]
    assert [datum.loss_fn_inputs["logprobs"].tolist() for datum in sent] == [[-1.0, -2.0], [-3.0]]


def test_several_targets_a_position() -> None:
    data = [
        Datum(
            model_input=[1, 2],
            loss_fn_inputs={"target_tokens": [[1, 2, 3], [4, 5, 6]], "mine": [7.0]},
        )
    ]
    logprobs = np.log(np.array([[0.5, 0.25, 0.125], [0.1, 0.2, 0.3]], np.float32))

    def loss_fn(data: Sequence[Datum], given: Logprobs) -> tuple[torch.Tensor, dict[str, float]]:
        return given[0].exp().sum() * float(data[0].loss_fn_inputs["mine"].to_numpy()[0]), {}

    for output in (logprobs, logprobs.ravel()):  # flat is what some servers give
        [sent] = linearized(data, evaluate(data, outputs_of(output), loss_fn).gradients)
        assert sent.loss_fn_inputs.keys() == {"target_tokens", "weights"}
        np.testing.assert_allclose(
            sent.loss_fn_inputs["weights"].to_numpy(), -7 * np.exp(logprobs), rtol=1e-6
        )


def test_the_forward_pass_gets_what_the_server_knows_and_both_passes_are_split_alike() -> None:
    data = [
        Datum(
            model_input=[1, 2],
            loss_fn_inputs={
                "target_tokens": [2, 3],
                "weights": [0.5, 1.0],
                "mine": [[1.0, 2.0, 3.0]],
            },
        ),
        *[
            Datum(
                model_input=[1] * n,
                loss_fn_inputs={"target_tokens": [2] * n, "advantages": [1.0] * n},
            )
            for n in (1, 7, 3, 90, 2)
        ],
    ]
    first = forward_data(data)
    assert [datum.loss_fn_inputs.keys() for datum in first] == [{"target_tokens", "weights"}] * len(
        data
    )
    assert first[0].loss_fn_inputs["weights"] == data[0].loss_fn_inputs["weights"]
    assert first[2].loss_fn_inputs["weights"].tolist() == [0.0] * 7
    second = linearized(data, [None] * len(data))
    limits = ChunkLimits(max_items=3, max_size=500)
    sizes = [[len(chunk) for chunk in chunking.split(batch, limits)] for batch in (first, second)]
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) > 1


def test_the_result_is_that_of_the_custom_loss() -> None:
    data = batch_of([[2.0]])
    evaluated = evaluate(
        data,
        outputs_of([-3.0]),
        lambda data, x: (2 * x[0].sum(), {"custom/a:sum": 1.5, "tokens:sum": 9.0}),
    )
    backward = ForwardBackwardOutput(
        "ArrayRecord", outputs_of([-3.0]), {"loss:sum": 5.0, "tokens:sum": 1.0, "b:mean": 2.0}
    )
    output = custom_output(backward, evaluated)
    assert output.metrics == {
        "loss:sum": -6.0,
        "surrogate_loss:sum": 5.0,
        "custom/a:sum": 1.5,
        "tokens:sum": 9.0,
        "b:mean": 2.0,
    }
    assert (output.loss_fn_output_type, output.loss_fn_outputs) == (
        "ArrayRecord",
        backward.loss_fn_outputs,
    )
    assert backward.metrics["loss:sum"] == 5.0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_mode_without_gradients_around_the_call_does_not_matter(mode: Callable[[], Any]) -> None:
    data = batch_of([[2.0]])
    with mode():
        assert evaluate(data, outputs_of([-3.0]), cross_entropy).gradients[0].tolist() == [-2.0]


def test_a_function_cannot_spoil_the_logprobs_that_the_forward_pass_gave() -> None:
    def loss_fn(
        data: Sequence[Datum], logprobs: list[NDArray[Any]]
    ) -> tuple[float, list[Any], dict[str, float]]:
        logprobs[0][:] = 7
        return 1.0, [np.ones(1)], {}

    outputs = outputs_of([-3.0])
    evaluate(batch_of([[1.0]]), outputs, NumpyLoss(loss_fn))
    assert outputs[0]["logprobs"].tolist() == [-3.0]


def of_torch(function: Callable[[Logprobs], Any]) -> CustomLoss:
    return lambda data, logprobs: function(logprobs)


def of_numpy(*gradients: Any, loss: Any = 1.0) -> CustomLoss:
    return NumpyLoss(lambda data, logprobs: (loss, list(gradients), {}))


@pytest.mark.parametrize(
    ("loss_fn", "words"),
    [
        (
            of_torch(lambda x: (torch.tensor(1.0, requires_grad=True), {})),
            "does not depend on the logprobs",
        ),
        (of_torch(lambda x: (x[0].detach().sum(), {})), "does not depend on the logprobs"),
        (of_torch(lambda x: x[0].sum()), r"must return \(loss, metrics\), not Tensor"),
        (of_torch(lambda x: (x[1], {})), r"one value, not Tensor of shape \[2\].*\n.*sum"),
        (of_torch(lambda x: (1.0, {})), "one value, not float"),
        (of_torch(lambda x: (x[0].sum(), {"a": "b"})), "the metric 'a' must hold numbers"),
        (
            of_torch(lambda x: (x[0].sum(), {"a": x[1]})),
            r"the metric 'a' must be one number, not an array of shape \[2\]",
        ),
        (of_torch(lambda x: (x[0].sum(), None)), "metrics must be a mapping, not NoneType"),
        (of_torch(lambda x: (x[0].sum() * float("nan"), {})), "the custom loss is nan"),
        (
            of_torch(lambda x: (torch.stack([(y - y).sqrt().sum() for y in x]).sum(), {})),
            r"the gradient for data\[0\].*\[0\] is",
        ),
        (
            of_torch(lambda x: (x[0].sum() + (x[1][1:] - x[1][1:]).sqrt().sum(), {})),
            r"the gradient for data\[1\].*\[1\] is",
        ),
        (of_numpy(None, None), "does not depend on the logprobs"),
        (of_numpy(np.ones(1)), "1 gradients for 2 datums"),
        (of_numpy(np.ones(1), np.ones(3)), r"data\[1\] has the shape \[3\], not \[2\]"),
        (of_numpy(np.ones(1), np.array([1.0, np.inf])), r"data\[1\] at position \[1\] is inf"),
        (of_numpy(np.ones(1), np.array([1.0, 1e300])), r"data\[1\] at position \[1\] is inf"),
        (of_numpy(np.ones(1), ["a", "b"]), r"data\[1\] must hold numbers"),
        (of_numpy(np.ones(1), np.ones(2), loss=np.inf), "the custom loss is inf"),
        (of_numpy(np.ones(1), np.ones(2), loss=np.ones(2)), "must be one number"),
    ],
)
def test_a_wrong_loss_is_refused_and_the_datum_is_named(loss_fn: CustomLoss, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        evaluate(batch_of([[1.0], [1.0, 1.0]]), outputs_of([-1.0], [-1.0, -2.0]), loss_fn)


def test_a_loss_that_is_not_finite_because_of_the_servers_logprobs_says_so() -> None:
    with pytest.raises(
        InvalidInputError,
        match=r"loss is nan.*server's logprob for data\[1\] at position \[1\] is nan",
    ):
        evaluate(batch_of([[1.0], [1.0, 1.0]]), outputs_of([-1.0], [-1.0, np.nan]), cross_entropy)


def test_an_exception_of_the_function_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        evaluate(batch_of([[1.0]]), outputs_of([-1.0]), of_torch(lambda x: 1 / 0))


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([], "0 outputs for 2"),
        (outputs_of([-1.0], [-1.0]), r"shape \[1\] for data\[1\]"),
        ([*outputs_of([-1.0]), {}], r"no logprobs for data\[1\]"),
    ],
)
def test_an_answer_that_does_not_fit_is_the_servers_fault(
    outputs: list[LossFnOutput], words: str
) -> None:
    with pytest.raises(APIResponseValidationError, match=words) as caught:
        evaluate(batch_of([[1.0], [1.0, 1.0]]), outputs, cross_entropy)
    assert caught.value.fault == "server"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "empty"),
        (["text"], r"data\[0\] must be a Datum, found str"),
        (
            [datum(1), Datum(model_input=[1], loss_fn_inputs={"weights": [1.0]})],
            r"data\[1\].*lacks 'target_tokens'",
        ),
        (
            [Datum(model_input=[1], loss_fn_inputs={"target_tokens": [[1, 2]], "weights": [1.0]})],
            r"data\[0\] has weights of shape",
        ),
    ],
)
def test_a_batch_that_no_forward_pass_can_take_is_refused(data: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        forward_data(data)


def test_gradients_of_a_wrong_number_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="2 gradients for 1"):
        linearized(batch_of([[1.0]]), [np.ones(1), np.ones(1)])


def test_a_loss_without_torch_does_not_import_it() -> None:
    script = """
        import sys
        import numpy as np
        from tinkex import Datum, TensorData
        from tinkex.losses.custom import NumpyLoss, evaluate, linearized

        data = [Datum(model_input=[1], loss_fn_inputs={"target_tokens": [2]})]
        loss_fn = NumpyLoss(lambda data, logprobs: (1.0, [np.full(1, 0.25)], {}))
        evaluated = evaluate(data, [{"logprobs": TensorData([-1.0])}], loss_fn)
        weights = linearized(data, evaluated.gradients)[0].loss_fn_inputs["weights"]
        print(weights.tolist(), "torch" in sys.modules)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[-0.25] False\n"


def test_where_torch_is_missing_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidInputError, match="NumpyLoss"):
        evaluate(batch_of([[1.0]]), outputs_of([-1.0]), cross_entropy)


def rollout_batch() -> list[Datum]:
    tokens, rows = list(b"forty two"), []
    for length in (4, 8):
        rows.append(
            Datum(
                model_input=ModelInput.from_ints(tokens[:length]),
                loss_fn_inputs={
                    "target_tokens": tokens[1 : length + 1],
                    "logprobs": np.linspace(-2.0, -1.0, length, dtype=np.float32),
                    "advantages": np.linspace(-1.0, 2.0, length, dtype=np.float32),
                },
            )
        )
    return rows


@pytest.mark.parametrize(
    ("make_data", "name", "loss_fn"),
    [
        (text_batch, "cross_entropy", cross_entropy),
        (text_batch, "cross_entropy", NumpyLoss(cross_entropy_by_numpy)),
        (rollout_batch, "importance_sampling", importance_sampling),
    ],
    ids=["cross_entropy", "cross_entropy by numpy", "importance_sampling"],
)
def test_it_trains_as_the_servers_own_loss_does(
    torch_server: Server, make_data: Callable[[], list[Datum]], name: str, loss_fn: CustomLoss
) -> None:
    data, step = make_data(), AdamParams(learning_rate=1e-2)
    mine = [
        Datum(
            model_input=datum.model_input,
            loss_fn_inputs={**datum.loss_fn_inputs, "only_here": [1.0, 2.0]},
        )
        for datum in data
    ]
    with ServiceClient(base_url=torch_server.base_url, api_key="tml-test") as service:
        theirs = service.create_lora_training_client("tinkex/tiny", rank=8, seed=7)
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=7)
        before = theirs.forward_backward(data, name).result()
        expected = theirs.optim_step(step).result()

        passed = trainer.forward(forward_data(mine), "cross_entropy").result()
        evaluated = evaluate(mine, passed.loss_fn_outputs, loss_fn)
        backward = trainer.forward_backward(
            linearized(mine, evaluated.gradients), "cross_entropy"
        ).result()
        output = custom_output(backward, evaluated)
        found = trainer.optim_step(step).result()

        assert output.metrics["loss:sum"] == pytest.approx(before.metrics["loss:sum"], rel=1e-5)
        assert output.metrics["tokens:sum"] == before.metrics["tokens:sum"]
        assert {*evaluated.metrics, "surrogate_loss:sum"} <= output.metrics.keys()
        assert dict(found.metrics) == pytest.approx(dict(expected.metrics), rel=1e-4)
        after = [client.forward(data, name).result() for client in (theirs, trainer)]
    assert after[1].metrics == pytest.approx(after[0].metrics, rel=1e-4)
    # the step did something
    assert abs(after[0].metrics["loss:sum"] - before.metrics["loss:sum"]) > 0.01


@pytest.mark.rule(19)
def test_a_server_that_divides_by_the_weights_is_trained_by_ratios_to_the_same_end(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    """The gradient has both signs within a datum, and in sum."""

    def mixed(
        data: Sequence[Datum], logprobs: list[NDArray[Any]]
    ) -> tuple[float, list[Any], dict[str, float]]:
        slopes = [
            np.where(np.arange(len(x)) % 3 == 0, 1.0, -1.0).astype(np.float32) for x in logprobs
        ]
        return sum(float(slope @ x) for slope, x in zip(slopes, logprobs, strict=True)), slopes, {}

    def losses(dialect: Dialect) -> list[float]:
        service = connect(
            torch_server.base_url, config=Config(base_url=torch_server.base_url, dialect=dialect)
        )
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8, seed=7)
        custom = []
        for _ in range(2):
            custom.append(
                trainer.forward_backward_custom(text_batch(), NumpyLoss(mixed))
                .result()
                .metrics["loss:sum"]
            )
            trainer.optim_step(AdamParams(learning_rate=1e-2)).result()
        return custom

    by_ratios = losses(evolve(DIALECTS["tinkex"], divides_by_weights=True))
    assert by_ratios == pytest.approx(losses(DIALECTS["tinkex"]), rel=1e-4)
    assert by_ratios[1] < by_ratios[0]

"""Losses that the user's own function computes, in this process and not on the server.

Plain values: no I/O here. To train with any loss, only its gradient with respect to the logprobs is
needed. So a step has two requests:

1. a forward pass of `forward_data(data)` gives the logprobs;
2. `evaluate` calls the user's function with them, and computes the gradient;
3. a backward pass of `linearized(data, gradients)`, whose cross entropy has that gradient at these
   logprobs, or of `linearized_by_ratios`, whose importance sampling has it, brings the gradient to
   the weights;
4. `custom_output` replaces the loss of that pass by the user's loss and metrics.

torch is imported only for a function that is written in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from tinkex.errors import APIResponseValidationError, InvalidInputError
from tinkex.losses.batch_checks import check_batch
from tinkex.types import Datum, ForwardBackwardOutput, LossFnOutput
from tinkex.types.arrays import ArrayLike, Number, to_numpy

if TYPE_CHECKING:
    import torch

FloatArray: TypeAlias = NDArray[np.floating[Any]]

TorchLoss: TypeAlias = Callable[
    [list[Datum], "list[torch.Tensor]"], "tuple[torch.Tensor, Mapping[str, float]]"
]
"""A custom loss in torch: `loss_fn(data, logprobs) -> (loss, metrics)`.

`logprobs` is a list of float32 tensors with the logprobs of the targets in nats, one per datum, of
the shape of its `target_tokens`: `(N,)` or `(N, K)`. `loss` is a tensor with one value, computed
from them by torch. `metrics` maps names to numbers.
"""


@frozen
class NumpyLoss:
    """A custom loss without torch, whose function computes the gradients itself.

    Args:
        function: `function(data, logprobs) -> (loss, gradients, metrics)`. `logprobs` is a list of
            float32 arrays with the logprobs of the targets in nats, one per datum, of the shape of
            its `target_tokens`: `(N,)` or `(N, K)`. `gradients` has the gradient of the loss with
            respect to each of them, of the same shape, or None for zeros. `metrics` maps names to
            numbers.

    Example:
        def cross_entropy(data, logprobs):
            weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in data]
            loss = -sum(float((w * x).sum()) for w, x in zip(weights, logprobs))
            return loss, [-w for w in weights], {}

        fb = trainer.forward_backward_custom(data, NumpyLoss(cross_entropy))
        loss = (await fb).metrics["loss:sum"]
    """

    function: Callable[
        [list[Datum], list[FloatArray]],
        tuple[float, Sequence[NDArray[np.generic] | None], Mapping[str, float]],
    ]


CustomLoss: TypeAlias = TorchLoss | NumpyLoss
"""A custom loss that is computed in this process: a function in torch, or a `NumpyLoss`."""


@frozen(eq=False)
class Evaluated:
    """The value of a custom loss, with its gradients and metrics."""

    loss: float
    gradients: Sequence[NDArray[np.float32]]
    """The gradients of the loss with respect to the logprobs: one per datum, of the shape of its
    `target_tokens`.
    """
    metrics: Mapping[str, float]
    """The user's metrics, under the user's names."""


def forward_data(data: Sequence[Datum]) -> list[Datum]:
    """Returns the datums for the forward pass, with `target_tokens` and `weights`, which default to
    0.

    Inputs that only the user's function knows are left out. The shapes are those of `linearized`,
    so that both passes are split alike.

    Raises:
        InvalidInputError: the batch is empty, contains something other than a `Datum`, or lacks
            `target_tokens`.
    """
    check_batch(data, "custom")
    return [_with_weights(datum, _weights(index, datum)) for index, datum in enumerate(data)]


def evaluate(data: list[Datum], outputs: Sequence[LossFnOutput], loss_fn: CustomLoss) -> Evaluated:
    """Calls the user's function, and computes the gradients of its loss by the logprobs.

    Errors that the function raises are passed on.

    Args:
        data: the batch, with all its inputs.
        outputs: the `loss_fn_outputs` of the forward pass, of which the `logprobs` are used.
        loss_fn: the user's function in torch, or a `NumpyLoss`.

    Raises:
        InvalidInputError: the function returns something wrong, torch is not installed, the loss or
            a gradient is NaN or infinite, or the loss does not depend on the logprobs.
        APIResponseValidationError: the server's outputs lack the logprob of a target.
    """
    logprobs = _logprobs(data, outputs)
    run = _run_numpy if isinstance(loss_fn, NumpyLoss) else _run_torch
    loss, gradients, metrics = run(data, logprobs, loss_fn)  # type: ignore[arg-type]
    if not np.isfinite(loss):
        raise InvalidInputError(
            f"the custom loss is {loss}{_unusable(logprobs)}",
            advice="Mask positions that must not count before you take a log.",
        )
    if all(gradient is None for gradient in gradients):
        raise InvalidInputError(
            "the custom loss does not depend on the logprobs, so it cannot train anything",
            advice="Compute it from the given logprobs, without .detach(), .item() or .numpy().",
        )
    return Evaluated(
        loss,
        [_gradient(i, datum, g) for i, (datum, g) in enumerate(zip(data, gradients, strict=True))],
        metrics,
    )


def linearized(data: Sequence[Datum], gradients: Sequence[ArrayLike | None]) -> list[Datum]:
    """Returns datums whose cross entropy has these gradients.

    Cross entropy is the sum of -weight · logprob, so weight = -gradient.

    Args:
        data: the batch. `model_input` and `target_tokens` are kept, other inputs are left out.
        gradients: the gradients of the loss, one per datum, of the shape of its `target_tokens`;
            None stands for zeros.

    Raises:
        InvalidInputError: a gradient is missing, has another shape, or is NaN or infinite. The
            message names the datum.
    """
    _check_count(gradients, len(data))
    # 0 - g and not -g, which would turn each 0 into -0.0
    return [
        _with_weights(datum, np.float32(0) - _gradient(i, datum, gradients[i]))
        for i, datum in enumerate(data)
    ]


def linearized_by_ratios(
    data: Sequence[Datum], gradients: Sequence[ArrayLike | None], outputs: Sequence[LossFnOutput]
) -> list[Datum]:
    """Returns datums whose importance sampling has these gradients.

    Importance sampling is the sum of -exp(logprob - logprobs) · advantage. The exponential is 1 at
    the logprobs of the forward pass, so advantage = -gradient.

    Takes and raises what `linearized` does; `outputs` are those of the forward pass.
    """
    advantages = [datum.loss_fn_inputs["weights"] for datum in linearized(data, gradients)]
    return [
        evolve(
            datum,
            loss_fn_inputs={
                "target_tokens": datum.loss_fn_inputs["target_tokens"],
                "logprobs": logprobs.astype(np.float32),
                "advantages": advantage,
            },
        )
        for datum, advantage, logprobs in zip(
            data, advantages, _logprobs(data, outputs), strict=True
        )
    ]


def custom_output(backward: ForwardBackwardOutput, evaluated: Evaluated) -> ForwardBackwardOutput:
    """Returns the result of the backward pass as that of the custom loss.

    In `metrics`, `loss:sum` is the custom loss, even if the user has a metric of that name, and
    `surrogate_loss:sum` is the loss that the server computed. The server's other metrics follow,
    then the user's.
    """
    metrics = dict(backward.metrics)
    if "loss:sum" in metrics:
        metrics["surrogate_loss:sum"] = metrics.pop("loss:sum")
    return evolve(backward, metrics={**metrics, **evaluated.metrics, "loss:sum": evaluated.loss})


def _run_torch(
    data: list[Datum], logprobs: Sequence[FloatArray], loss_fn: TorchLoss
) -> tuple[float, list[Any], dict[str, float]]:
    torch = _torch()
    # the caller's code may have disabled gradients
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [torch.tensor(array, requires_grad=True) for array in logprobs]
        loss, metrics = _unpack(loss_fn(data, list(leaves)), 2, "(loss, metrics)")
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise InvalidInputError(
                f"the custom loss must be a torch tensor with one value, not {_described(loss)}",
                advice="Reduce it with .sum().",
            )
        gradients = _torch_gradients(torch, loss, leaves)
    return float(loss.detach()), gradients, _metrics(metrics)


def _torch_gradients(
    torch: ModuleType, loss: torch.Tensor, leaves: list[torch.Tensor]
) -> list[Any]:
    if not loss.requires_grad:
        return [None] * len(leaves)
    return list(torch.autograd.grad(loss.reshape(()), leaves, allow_unused=True))


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise InvalidInputError(
            "a custom loss in torch needs torch, which is not installed",
            advice="Install it, or use a NumpyLoss.",
        ) from error
    return torch


def _run_numpy(
    data: list[Datum], logprobs: Sequence[FloatArray], loss_fn: NumpyLoss
) -> tuple[float, list[Any], dict[str, float]]:
    loss, gradients, metrics = _unpack(
        loss_fn.function(data, list(logprobs)), 3, "(loss, gradients, metrics)"
    )
    _check_count(gradients, len(data))
    return _number(loss, "the custom loss"), list(gradients), _metrics(metrics)


def _unpack(result: Any, count: int, form: str) -> Any:
    if not isinstance(result, tuple) or len(result) != count:  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidInputError(f"the loss function must return {form}, not {_described(result)}")
    return result  # pyright: ignore[reportUnknownVariableType]


def _metrics(metrics: Any) -> dict[str, float]:
    if not isinstance(metrics, Mapping):
        raise InvalidInputError(
            f"the loss function's metrics must be a mapping, not {_described(metrics)}"
        )
    return {str(name): _number(value, f"the metric {name!r}") for name, value in metrics.items()}  # pyright: ignore


def _number(value: ArrayLike | Number, name: str) -> float:
    array = to_numpy(value, name)
    if array.size != 1:
        raise InvalidInputError(
            f"{name} must be one number, not an array of shape {list(array.shape)}"
        )
    return float(array.item())


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return (
        type(value).__name__ if shape is None else f"{type(value).__name__} of shape {list(shape)}"
    )


def _logprobs(data: Sequence[Datum], outputs: Sequence[LossFnOutput]) -> list[FloatArray]:
    if len(outputs) != len(data):
        raise APIResponseValidationError(
            f"the forward pass returned {len(outputs)} outputs for {len(data)} datums"
        )
    return [
        _logprobs_of(index, datum, output)
        for index, (datum, output) in enumerate(zip(data, outputs, strict=True))
    ]


def _logprobs_of(index: int, datum: Datum, output: LossFnOutput) -> FloatArray:
    if "logprobs" not in output:
        raise APIResponseValidationError(f"the forward pass returned no logprobs for data[{index}]")
    array, shape = output["logprobs"].to_numpy(), _shape(index, datum)
    # a tensor without a shape comes flat
    if array.shape != shape and array.shape != (int(np.prod(shape)),):
        raise APIResponseValidationError(
            f"the forward pass returned logprobs of shape {list(array.shape)} for data[{index}], "
            f"whose target_tokens are {list(shape)}"
        )
    # always a copy, since the user's function may write into it
    return array.reshape(shape).astype(np.float64 if array.dtype == np.float64 else np.float32)


def _unusable(logprobs: Sequence[FloatArray]) -> str:
    for index, array in enumerate(logprobs):
        wrong = np.argwhere(~np.isfinite(array))
        if len(wrong):
            return (
                f"; the server's logprob for data[{index}] at position {wrong[0].tolist()} is "
                f"{array[tuple(wrong[0])]}"
            )
    return ""


def _check_count(gradients: Any, count: int) -> None:
    if len(gradients) != count:
        raise InvalidInputError(f"there are {len(gradients)} gradients for {count} datums")


def _gradient(index: int, datum: Datum, gradient: ArrayLike | None) -> NDArray[np.float32]:
    shape = _shape(index, datum)
    if gradient is None:
        return np.zeros(shape, np.float32)
    array = to_numpy(gradient, f"the gradient for data[{index}]")
    if array.shape != shape:
        raise InvalidInputError(
            f"the gradient for data[{index}] has the shape {list(array.shape)}, not {list(shape)}"
        )
    # a value too large for float32 becomes infinite, which the next lines refuse
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        raise InvalidInputError(
            f"the gradient for data[{index}] at position {wrong[0].tolist()} is "
            f"{array[tuple(wrong[0])]}",
            advice=(
                "Mask positions before a log, a root or a division, not after it: the gradient of "
                "a masked position counts, too."
            ),
        )
    return array


def _weights(index: int, datum: Datum) -> NDArray[np.generic]:
    weights, shape = datum.loss_fn_inputs.get("weights"), _shape(index, datum)
    if weights is None:
        return np.zeros(shape, np.float32)
    if tuple(weights.shape) != shape:
        raise InvalidInputError(
            f"data[{index}] has weights of shape {list(weights.shape)}, but target_tokens of "
            f"shape {list(shape)}"
        )
    return weights.to_numpy()


def _with_weights(datum: Datum, weights: NDArray[np.generic]) -> Datum:
    return evolve(
        datum,
        loss_fn_inputs={"target_tokens": datum.loss_fn_inputs["target_tokens"], "weights": weights},
    )


def _shape(index: int, datum: Datum) -> tuple[int, ...]:
    """Returns the shape of the targets, and so of their logprobs, weights and gradients."""
    targets = datum.loss_fn_inputs.get("target_tokens")
    if targets is None:
        raise InvalidInputError(
            f"data[{index}].loss_fn_inputs lacks 'target_tokens', which a custom loss needs"
        )
    return tuple(targets.shape)

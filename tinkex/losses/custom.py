"""Losses that the user's own function computes, here and not on the server. Plain values: no I/O.

Only the gradient with respect to the logprobs is needed to train by a loss, whatever the loss is.
So a step has two requests:

1. a forward pass of `forward_data(data)`, which gives the logprobs;
2. `evaluate` calls the user's function on them, and finds the gradient;
3. a backward pass of `linearized(data, gradients)`, whose cross entropy has that gradient at these
logprobs, or of
   `linearized_by_ratios`, whose importance sampling has it;
4. `custom_output` puts the user's loss and metrics in the place of that cross entropy's.

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
from tinkex.losses.validation import check_batch
from tinkex.types import Datum, ForwardBackwardOutput, LossFnOutput
from tinkex.types.arrays import ArrayLike, Number, to_numpy

if TYPE_CHECKING:
    import torch

FloatArray: TypeAlias = NDArray[np.floating[Any]]

TorchLoss: TypeAlias = Callable[
    [list[Datum], "list[torch.Tensor]"], "tuple[torch.Tensor, Mapping[str, float]]"
]
"""`loss_fn(data, logprobs) -> (loss, metrics)`: the loss is a tensor of one value, made of the
logprobs by torch.

`logprobs` are the targets', one tensor for each datum, of the shape of its `target_tokens`: `(N,)`,
or `(N, K)`.
"""


@frozen
class NumpyLoss:
    """A loss without torch, whose function gives the gradients itself.

    Example, cross entropy:
        >>> def cross_entropy(data, logprobs):
        ...     weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in data]
        ...     loss = -sum(float((w * x).sum()) for w, x in zip(weights, logprobs))
        ...     return loss, [-w for w in weights], {}
        >>> loss_fn = NumpyLoss(cross_entropy)

    Args:
        function: `function(data, logprobs) -> (loss, gradients, metrics)`; a gradient of the loss
            for each datum, of its logprobs'
            shape, or None where the loss does not depend on them.
    """

    function: Callable[
        [list[Datum], list[FloatArray]],
        tuple[float, Sequence[NDArray[np.generic] | None], Mapping[str, float]],
    ]


CustomLoss: TypeAlias = TorchLoss | NumpyLoss
"""What can be given as a custom loss."""


@frozen(eq=False)
class Evaluated:
    """What a custom loss came to."""

    loss: float
    gradients: Sequence[NDArray[np.float32]]
    """Of the loss with respect to the logprobs: one for each datum, of the shape of its
    `target_tokens`.
    """
    metrics: Mapping[str, float]
    """The user's, under the user's names."""


def forward_data(data: Sequence[Datum]) -> list[Datum]:
    """The datums for the forward pass: `target_tokens`, and `weights`, which are 0 where a datum
    has none.

    Inputs that only the user's function knows stay here. Shapes are those of `linearized`, so that
    both are split alike.

    Raises:
        InvalidInputError: an empty batch, a thing that is no `Datum`, or no `target_tokens`.
    """
    check_batch(data, "custom")
    return [_with_weights(datum, _weights(index, datum)) for index, datum in enumerate(data)]


def evaluate(data: list[Datum], outputs: Sequence[LossFnOutput], loss_fn: CustomLoss) -> Evaluated:
    """Calls the user's function, and finds the gradient of its loss with respect to each logprob.

    Args:
        data: the batch, with all its inputs.
        outputs: the forward pass's `loss_fn_outputs`, whose `logprobs` count.
        loss_fn: the user's function, in torch, or a `NumpyLoss`.

    Raises:
        InvalidInputError: the function does not return what it should, torch is not there, its loss
            or a gradient is NaN or
            infinite, or the loss does not depend on the logprobs. What the function itself raises
            is passed on.
        APIResponseValidationError: the server's outputs have no logprobs for each target.
    """
    logprobs = _logprobs(data, outputs)
    run = _run_numpy if isinstance(loss_fn, NumpyLoss) else _run_torch
    loss, gradients, metrics = run(data, logprobs, loss_fn)  # type: ignore[arg-type]
    if not np.isfinite(loss):
        raise InvalidInputError(
            f"the custom loss is {loss}{_unusable(logprobs)}",
            advice="Mask what must not count before any log.",
        )
    if all(gradient is None for gradient in gradients):
        raise InvalidInputError(
            "the custom loss does not depend on the logprobs, so it cannot train anything",
            advice="Compute it from the logprobs given, without .detach(), .item() or .numpy().",
        )
    return Evaluated(
        loss,
        [_gradient(i, datum, g) for i, (datum, g) in enumerate(zip(data, gradients, strict=True))],
        metrics,
    )


def linearized(data: Sequence[Datum], gradients: Sequence[ArrayLike | None]) -> list[Datum]:
    """The datums whose cross entropy has these gradients: its loss is the sum of -weight · logprob,
    so weight = -gradient.

    Args:
        data: the batch; `model_input` and `target_tokens` are kept, all other inputs are left out.
        gradients: of the loss, one for each datum, of the shape of its `target_tokens`; None stands
            for zeros.

    Raises:
        InvalidInputError: naming the datum: a gradient that is missing, of another shape, NaN or
            infinite.
    """
    _check_count(gradients, len(data))
    # 0 - g and not -g, which would make a -0.0 of each 0
    return [
        _with_weights(datum, np.float32(0) - _gradient(i, datum, gradients[i]))
        for i, datum in enumerate(data)
    ]


def linearized_by_ratios(
    data: Sequence[Datum], gradients: Sequence[ArrayLike | None], outputs: Sequence[LossFnOutput]
) -> list[Datum]:
    """The datums whose importance sampling has these gradients: its loss is the sum of -exp(logprob
    - logprobs) · advantage, of which the exponential is 1 at the logprobs of the forward pass, so
    advantage = -gradient.

    Takes and raises what `linearized` does, and `outputs` of the forward pass.
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
    """The backward pass's result as that of the custom loss.

    `loss:sum` is the custom loss, also where the user has a metric of that name, and
    `surrogate_loss:sum` what the server computed in its stead. The other metrics are the server's,
    and then the user's.
    """
    metrics = dict(backward.metrics)
    if "loss:sum" in metrics:
        metrics["surrogate_loss:sum"] = metrics.pop("loss:sum")
    return evolve(backward, metrics={**metrics, **evaluated.metrics, "loss:sum": evaluated.loss})


def _run_torch(
    data: list[Datum], logprobs: Sequence[FloatArray], loss_fn: TorchLoss
) -> tuple[float, list[Any], dict[str, float]]:
    torch = _torch()
    # the caller's code may be in a mode without gradients
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [torch.tensor(array, requires_grad=True) for array in logprobs]
        loss, metrics = _unpack(loss_fn(data, list(leaves)), 2, "(loss, metrics)")
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise InvalidInputError(
                f"the custom loss must be a torch tensor of one value, not {_described(loss)}",
                advice="Reduce it by .sum().",
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
            advice="Install it, or give a NumpyLoss.",
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
        raise InvalidInputError(f"{name} must be one number, not of shape {list(array.shape)}")
    return float(array.item())


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return (
        type(value).__name__ if shape is None else f"{type(value).__name__} of shape {list(shape)}"
    )


def _logprobs(data: Sequence[Datum], outputs: Sequence[LossFnOutput]) -> list[FloatArray]:
    if len(outputs) != len(data):
        raise APIResponseValidationError(
            f"the forward pass gave {len(outputs)} outputs for {len(data)} datums"
        )
    return [
        _logprobs_of(index, datum, output)
        for index, (datum, output) in enumerate(zip(data, outputs, strict=True))
    ]


def _logprobs_of(index: int, datum: Datum, output: LossFnOutput) -> FloatArray:
    if "logprobs" not in output:
        raise APIResponseValidationError(f"the forward pass gave no logprobs for data[{index}]")
    array, shape = output["logprobs"].to_numpy(), _shape(index, datum)
    # flat is what a tensor without a shape comes as
    if array.shape != shape and array.shape != (int(np.prod(shape)),):
        raise APIResponseValidationError(
            f"the forward pass gave logprobs of shape {list(array.shape)} for data[{index}], "
            f"whose target_tokens are {list(shape)}"
        )
    # a copy, also where nothing changes: the user's function may write into it
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
            f"the gradient for data[{index}] is of shape {list(array.shape)}, not {list(shape)}"
        )
    # too large for float32 becomes infinite, which the next lines refuse
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        raise InvalidInputError(
            f"the gradient for data[{index}] at position {wrong[0].tolist()} is "
            f"{array[tuple(wrong[0])]}",
            advice=(
                "A masked position must be masked before a log, a root or a division: its "
                "gradient counts, too."
            ),
        )
    return array


def _weights(index: int, datum: Datum) -> NDArray[np.generic]:
    weights, shape = datum.loss_fn_inputs.get("weights"), _shape(index, datum)
    if weights is None:
        return np.zeros(shape, np.float32)
    if tuple(weights.shape) != shape:
        raise InvalidInputError(
            f"data[{index}] has weights of shape {list(weights.shape)} and target_tokens of "
            f"{list(shape)}"
        )
    return weights.to_numpy()


def _with_weights(datum: Datum, weights: NDArray[np.generic]) -> Datum:
    return evolve(
        datum,
        loss_fn_inputs={"target_tokens": datum.loss_fn_inputs["target_tokens"], "weights": weights},
    )


def _shape(index: int, datum: Datum) -> tuple[int, ...]:
    """Of the targets, and so of all that belongs to them."""
    targets = datum.loss_fn_inputs.get("target_tokens")
    if targets is None:
        raise InvalidInputError(
            f"data[{index}].loss_fn_inputs lacks 'target_tokens', which a custom loss needs"
        )
    return tuple(targets.shape)

"""`LossHandle`: a custom loss that was traced once, and runs on the server or in this process.

Plain values: no I/O here, and no torch except what the traced function calls. `losses.tracing`
makes the trace, `losses.upload` the handle.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import orjson
from attrs import evolve, field, frozen
from tinkex_api.models import CustomLossGraph, CustomLossInput
from tinkex_api.types import OwnFuture

from tinkex.errors import InvalidInputError
from tinkex.losses.batch_checks import check_batch
from tinkex.losses.custom import TorchLoss
from tinkex.types import Datum

if TYPE_CHECKING:
    import torch

PerDatumLossFn: TypeAlias = Callable[..., "tuple[torch.Tensor, Mapping[str, torch.Tensor]]"]
"""A custom loss of one datum in torch, for `create_custom_loss`: `fn(logprobs, *inputs) -> (loss,
metrics)`.

`logprobs` is a float32 tensor with the logprobs of the datum's targets, of their shape `(N,)` or
`(N, K)`; `inputs` are the datum's other loss inputs. `loss` and the values of `metrics` are tensors
of rank 0. The loss of a batch is the sum over its datums. A metric is named `custom/<name>:sum` or
`custom/<name>:mean`, which says how it is reduced over the batch.
"""

Rank = Literal[0, 1, 2]
LOGPROBS = "logprobs"
METRIC_NAME = re.compile(r"custom/[a-z0-9_./-]{1,64}:(sum|mean)")


@frozen(eq=False, kw_only=True)
class TracedLoss:
    """A loss function that was traced, as a graph of its operations."""

    name: str
    """The function's name."""
    inputs: Sequence[CustomLossInput]
    """The function's parameters, with their ranks; the first is `logprobs`."""
    graph: CustomLossGraph
    """The function's operations, in the API's form."""
    run: PerDatumLossFn = field(repr=False)
    """The same operations, as a function."""

    @property
    def key(self) -> str:
        """A hash of the inputs and operations, equal for losses that compute the same."""
        content = [[loss_input.to_dict() for loss_input in self.inputs], self.graph.to_dict()]
        return hashlib.blake2b(orjson.dumps(content), digest_size=16).hexdigest()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the loss inputs that each datum needs in addition to `target_tokens`."""
        return tuple(loss_input.name for loss_input in self.inputs[1:])


@frozen(eq=False, kw_only=True)
class LossHandle(TracedLoss, OwnFuture):
    """A custom loss, for `forward_backward_custom`. Valid in one session.

    Made by `AsyncServiceClient.create_custom_loss`.

    Example:
        def weighted_nll(logprobs, weights):
            return -(weights * logprobs).sum(), {"custom/tokens:sum": weights.sum()}

        loss_fn = await service.create_custom_loss(weighted_nll, {"logprobs": 1, "weights": 1})
        fb = trainer.forward_backward_custom(data, loss_fn)
        loss = (await fb).metrics["loss:sum"]
    """

    session_id: str
    loss_id: str | None = None
    """The server's id of the loss; None if the server does not run custom losses. The loss is then
    computed in this process.
    """


def chosen_inputs(handle: LossHandle, data: Sequence[Datum]) -> list[Datum]:
    """Returns the datums with only the inputs that the loss needs.

    Raises:
        InvalidInputError: the batch is empty, contains something other than a `Datum`, or an input
            is missing or has another rank.
    """
    check_batch(data, "custom")
    return [_chosen(handle, index, datum) for index, datum in enumerate(data)]


def _chosen(handle: LossHandle, index: int, datum: Datum) -> Datum:
    ranks = {loss_input.name: loss_input.rank for loss_input in handle.inputs}
    ranks["target_tokens"] = ranks.pop(LOGPROBS)  # whose shape is that of the targets
    for name, rank in ranks.items():
        if name not in datum.loss_fn_inputs:
            raise InvalidInputError(
                f"data[{index}].loss_fn_inputs lacks {name!r}, which the custom loss "
                f"{handle.name} needs"
            )
        shape = datum.loss_fn_inputs[name].shape
        if len(shape) != rank:
            raise InvalidInputError(
                f"data[{index}].loss_fn_inputs[{name!r}] has the shape {list(shape)}, but the "
                f"custom loss {handle.name} takes rank {rank}"
            )
    return evolve(datum, loss_fn_inputs={name: datum.loss_fn_inputs[name] for name in ranks})


def run_here(handle: LossHandle) -> TorchLoss:
    """Returns the loss of a whole batch, as a function that runs in this process."""

    def loss_fn(
        data: list[Datum], logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, Mapping[str, float]]:
        results = [
            _run_one(handle, index, datum, logprobs[index]) for index, datum in enumerate(data)
        ]
        losses = [loss for loss, _ in results]
        return sum(losses[1:], losses[0]), _reduced([metrics for _, metrics in results])

    return loss_fn


def _run_one(
    handle: LossHandle, index: int, datum: Datum, logprobs: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    inputs: list[Any] = [datum.loss_fn_inputs[name].to_torch() for name in handle.input_names]
    try:
        loss, metrics = handle.run(logprobs, *inputs)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the custom loss {handle.name} failed for data[{index}]: {error}"
        ) from error
    check_scalars(f"the custom loss {handle.name}, for data[{index}],", loss, metrics)
    return loss, {name: float(value.detach()) for name, value in metrics.items()}


def check_scalars(source: str, loss: torch.Tensor, metrics: Mapping[str, torch.Tensor]) -> None:
    """Raises `InvalidInputError` unless the loss and the metrics have rank 0.

    Args:
        source: the words for the loss in the error message.
        loss: the loss.
        metrics: the metrics, by name.
    """
    for name, value in {"its loss": loss, **metrics}.items():
        if getattr(value, "ndim", None) != 0:
            found = (
                f"a tensor of shape {list(value.shape)}"
                if hasattr(value, "shape")
                else f"a Python {type(value).__name__}"
            )
            raise InvalidInputError(
                f"{source} must return scalar tensors: {name} is {found}",
                advice="Reduce it with .sum() or .mean().",
            )


def _reduced(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the metrics of the batch. All datums have the same ones, since a trace does not
    branch.
    """
    return {
        name: sum(row[name] for row in rows) / (len(rows) if name.endswith(":mean") else 1)
        for name in rows[0]
    }

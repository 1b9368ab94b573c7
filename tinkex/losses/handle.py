"""`LossHandle`: a loss over one datum, traced once, which the server runs, or this process where
the server cannot.

Plain values: no I/O, and no torch but what the traced function itself calls. `loss_tracing` makes
the trace, `loss_upload` the handle.
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
"""`fn(logprobs, *inputs) -> (loss, metrics)`, in torch: the loss of one datum, of its targets'
logprobs and of its other loss inputs.

The loss of a batch is the sum of its datums' losses. A metric is named `custom/<name>:sum` or
`custom/<name>:mean`, which says how those of the datums become the batch's.
"""

Rank = Literal[0, 1, 2]
LOGPROBS = "logprobs"
METRIC_NAME = re.compile(r"custom/[a-z0-9_./-]{1,64}:(sum|mean)")


@frozen(eq=False, kw_only=True)
class TracedLoss:
    """A function that keeps the rules, and what it does as a graph."""

    name: str
    """The function's."""
    inputs: Sequence[CustomLossInput]
    """The function's parameters, with their ranks; the first is `logprobs`."""
    graph: CustomLossGraph
    """What the function does, in the contract's form."""
    run: PerDatumLossFn = field(repr=False)
    """The same, to be called."""

    @property
    def key(self) -> str:
        """The same for losses that do the same."""
        content = [[loss_input.to_dict() for loss_input in self.inputs], self.graph.to_dict()]
        return hashlib.blake2b(orjson.dumps(content), digest_size=16).hexdigest()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the loss inputs that the datums must have, beside `target_tokens`."""
        return tuple(loss_input.name for loss_input in self.inputs[1:])


@frozen(eq=False, kw_only=True)
class LossHandle(TracedLoss, OwnFuture):
    """A loss of your own that can be trained by, in one session. Made by `create_custom_loss`; goes
    to `forward_backward_custom`.
    """

    session_id: str
    loss_id: str | None = None
    """The server's name for it; None where the server does not run custom losses, so that it is
    computed here.
    """


def chosen_inputs(handle: LossHandle, data: Sequence[Datum]) -> list[Datum]:
    """The datums with the inputs that the loss needs, and no others.

    Raises:
        InvalidInputError: an empty batch, a thing that is no `Datum`, or an input that is missing
            or of another rank.
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
                f"data[{index}].loss_fn_inputs[{name!r}] is of shape {list(shape)}, and the "
                f"custom loss {handle.name} takes rank {rank}"
            )
    return evolve(datum, loss_fn_inputs={name: datum.loss_fn_inputs[name] for name in ranks})


def run_here(handle: LossHandle) -> TorchLoss:
    """The loss of a whole batch, to be evaluated in this process."""

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
            f"the custom loss {handle.name} cannot be computed for data[{index}]: {error}"
        ) from error
    check_scalars(f"the custom loss {handle.name}, for data[{index}],", loss, metrics)
    return loss, {name: float(value.detach()) for name, value in metrics.items()}


def check_scalars(whose: str, loss: torch.Tensor, metrics: Mapping[str, torch.Tensor]) -> None:
    """Raises `InvalidInputError` unless the loss and the metrics are of rank 0."""
    for name, value in {"its loss": loss, **metrics}.items():
        if getattr(value, "ndim", None) != 0:
            what = (
                f"a tensor of shape {list(value.shape)}"
                if hasattr(value, "shape")
                else f"a Python {type(value).__name__}"
            )
            raise InvalidInputError(
                f"{whose} must give scalar tensors: {name} is {what}",
                advice="Reduce it by .sum() or .mean().",
            )


def _reduced(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The batch's metrics. All datums have the same ones, since a trace does not branch."""
    return {
        name: sum(row[name] for row in rows) / (len(rows) if name.endswith(":mean") else 1)
        for name in rows[0]
    }

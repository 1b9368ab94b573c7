"""What a server makes of a loss function, and what it has to be given for it. Plain values but for
the warning: no I/O here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from attrs import evolve

from tinkex.dialects.dialect import Dialect
from tinkex.errors import UnsupportedByServer
from tinkex.losses.batch_checks import counting_input, mask_is_lost
from tinkex.transport.server import Server
from tinkex.types import Datum, ForwardBackwardOutput, TensorData


def check_loss(server: Server, loss_fn: str) -> None:
    """Raises `UnsupportedByServer` for a loss that the server would train as another one; warns
    where a loss is not what it is elsewhere.
    """
    dialect = server.dialect
    if dialect.losses is not None and loss_fn not in dialect.losses:
        raise UnsupportedByServer(
            f"{dialect.name} has no loss {loss_fn!r}",
            server=dialect.name,
            operation="forward_backward",
            advice=(
                f"It has {', '.join(sorted(dialect.losses))}; forward_backward_custom computes "
                "any loss by cross_entropy."
            ),
        )
    if loss_fn in dialect.loss_notes:
        server.warn_once(
            f"its loss {loss_fn!r} is not what it is elsewhere: {dialect.loss_notes[loss_fn]}"
        )


def warn_of_mask(server: Server, data: Sequence[Datum], loss_fn: str) -> None:
    """Warns, once for a server, of a `mask` that has no effect: most servers take any input, and
    heed those that they know.
    """
    if not any(mask_is_lost(datum, loss_fn) for datum in data):
        return
    words = (
        f"loss_fn_inputs['mask'] has no effect on {loss_fn}, so tokens count that it leaves out; "
        f"give {counting_input(loss_fn)!r}, which are 0 for those"
    )
    if server.warn_once(words):
        warnings.warn(words, stacklevel=2)


def weighted(data: Sequence[Datum], loss_fn: str) -> Sequence[Datum]:
    """The data with a weight of 1 where cross_entropy was given none: some servers assume that,
    others refuse.
    """
    return [_weighted(datum) for datum in data] if loss_fn == "cross_entropy" else data


def made_up_forward(dialect: Dialect, loss_fn: str) -> bool:
    """Returns whether a forward of this server goes as a forward_backward without weights. Raises
    `UnsupportedByServer` for a loss of which that gives no value.
    """
    if not dialect.forwards_by_zero_weights:
        return False
    if loss_fn != "cross_entropy":
        raise UnsupportedByServer(
            f"{dialect.name} computes a forward of cross_entropy alone, not of {loss_fn!r}",
            server=dialect.name,
            operation="forward",
            advice="Take the logprobs of a forward of cross_entropy, and compute the loss of them.",
        )
    return True


def with_cross_entropy(
    data: Sequence[Datum], output: ForwardBackwardOutput
) -> ForwardBackwardOutput:
    """The output with the loss that the weights of `data` give, in nats, in place of the metrics of
    a forward without weights.
    """
    total = 0.0
    for datum, values in zip(data, output.loss_fn_outputs, strict=True):
        weights, logprobs = (
            datum.loss_fn_inputs["weights"].to_numpy(),
            values["logprobs"].to_numpy(),
        )
        total += float(np.sum(np.asarray(weights, np.float64) * np.asarray(logprobs, np.float64)))
    return evolve(output, metrics={"loss:sum": -total})


def without_padding(data: Sequence[Datum], output: ForwardBackwardOutput) -> ForwardBackwardOutput:
    """The output with each datum's logprobs cut to its targets."""
    pairs = zip(data, output.loss_fn_outputs, strict=True)
    return evolve(output, loss_fn_outputs=[_cut(datum, values) for datum, values in pairs])


def _cut(datum: Datum, values: Mapping[str, TensorData]) -> dict[str, TensorData]:
    count = len(datum.loss_fn_inputs["target_tokens"].to_numpy())
    cut = (
        {"logprobs": TensorData(values["logprobs"].to_numpy()[:count])}
        if "logprobs" in values
        else {}
    )
    return {**values, **cut}


def without_weight(datum: Datum) -> Datum:
    """The datum with weights of 0: its cross_entropy has logprobs, and no gradient."""
    inputs = datum.loss_fn_inputs
    zeros = TensorData(np.zeros(inputs["target_tokens"].shape, np.float32))
    return evolve(
        datum, loss_fn_inputs={"target_tokens": inputs["target_tokens"], "weights": zeros}
    )


def _weighted(datum: Datum) -> Datum:
    inputs = datum.loss_fn_inputs
    if "weights" in inputs:
        return datum
    ones = TensorData(np.ones(inputs["target_tokens"].shape, np.float32))
    return evolve(datum, loss_fn_inputs={**inputs, "weights": ones})

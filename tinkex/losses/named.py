"""Adapts batches of the named losses to a server, and reads its outputs. No I/O here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from attrs import evolve

from tinkex.dialects.dialect import Dialect
from tinkex.errors import UnsupportedByServer
from tinkex.losses.batch_checks import counting_input, mask_is_ignored
from tinkex.transport.server import Server
from tinkex.types import Datum, ForwardBackwardOutput, TensorData


def check_loss(server: Server, loss_fn: str) -> None:
    """Raises `UnsupportedByServer` for a loss that the server would replace by another one.

    Warns if the server's loss of that name differs from the usual one.
    """
    dialect = server.dialect
    if dialect.losses is not None and loss_fn not in dialect.losses:
        raise UnsupportedByServer(
            f"{dialect.name} has no loss {loss_fn!r}",
            server=dialect.name,
            operation="forward_backward",
            advice=(
                f"It has {', '.join(sorted(dialect.losses))}. forward_backward_custom computes "
                "any loss by means of cross_entropy."
            ),
        )
    if loss_fn in dialect.loss_notes:
        server.warn_once(
            f"its loss {loss_fn!r} differs from the usual one: {dialect.loss_notes[loss_fn]}"
        )


def warn_of_mask(server: Server, data: Sequence[Datum], loss_fn: str) -> None:
    """Warns, once per server, of a `mask` that has no effect: most servers accept any input, and
    ignore unknown ones.
    """
    if not any(mask_is_ignored(datum, loss_fn) for datum in data):
        return
    warning = (
        f"loss_fn_inputs['mask'] has no effect on {loss_fn}, so the masked tokens count; "
        f"give {counting_input(loss_fn)!r} instead, with 0 for those tokens"
    )
    if server.warn_once(warning):
        warnings.warn(warning, stacklevel=2)


def weighted(data: Sequence[Datum], loss_fn: str) -> Sequence[Datum]:
    """Returns the data, for cross_entropy with all weights 1 where a datum has none.

    Some servers assume such weights, others refuse a datum without weights.
    """
    return [_weighted(datum) for datum in data] if loss_fn == "cross_entropy" else data


def forwards_without_weights(dialect: Dialect, loss_fn: str) -> bool:
    """Returns whether a forward is sent to this server as a forward_backward without weights.

    Raises `UnsupportedByServer` for a loss whose value that does not give.
    """
    if not dialect.forwards_by_zero_weights:
        return False
    if loss_fn != "cross_entropy":
        raise UnsupportedByServer(
            f"{dialect.name} computes a forward only with cross_entropy, not with {loss_fn!r}",
            server=dialect.name,
            operation="forward",
            advice="Compute the loss from the logprobs of a forward with cross_entropy.",
        )
    return True


def with_cross_entropy(
    data: Sequence[Datum], output: ForwardBackwardOutput
) -> ForwardBackwardOutput:
    """Returns the output of a forward without weights, with the loss by the weights of `data`.

    The loss is in nats, and replaces all metrics.
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
    """Returns the output with each datum's logprobs cut to the length of its targets."""
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
    """Returns the datum with all weights 0, so that cross_entropy has logprobs but no gradient."""
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

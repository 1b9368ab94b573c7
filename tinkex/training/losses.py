"""What a server makes of a loss function, and what it has to be given for it. Plain values but for the warning: no I/O here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve

from tinkex.errors import UnsupportedByServer
from tinkex.transport.server import Server
from tinkex.types import Datum, TensorData


def check_loss(server: Server, loss_fn: str) -> None:
    """Raises `UnsupportedByServer` for a loss that the server would train as another one; warns where a loss is not what it is elsewhere."""
    dialect = server.dialect
    if dialect.losses is not None and loss_fn not in dialect.losses:
        raise UnsupportedByServer(
            f"{dialect.name} has no loss {loss_fn!r}",
            server=dialect.name,
            operation="forward_backward",
            advice=f"It has {', '.join(sorted(dialect.losses))}; forward_backward_custom computes any loss by cross_entropy.",
        )
    if loss_fn in dialect.loss_notes:
        server.warn_once(f"its loss {loss_fn!r} is not what it is elsewhere: {dialect.loss_notes[loss_fn]}")


def weighted(data: Sequence[Datum], loss_fn: str) -> Sequence[Datum]:
    """The data with a weight of 1 where cross_entropy was given none: some servers assume that, others refuse."""
    return [_weighted(datum) for datum in data] if loss_fn == "cross_entropy" else data


def _weighted(datum: Datum) -> Datum:
    inputs = datum.loss_fn_inputs
    if "weights" in inputs:
        return datum
    ones = TensorData(np.ones(inputs["target_tokens"].shape, np.float32))
    return evolve(datum, loss_fn_inputs={**inputs, "weights": ones})

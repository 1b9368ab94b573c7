"""The custom losses that a model may be trained with: those of its session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinkex_api.models import ForwardBackwardInput

from tinkex_server.engine.interface import CustomLoss
from tinkex_server.errors import Location, bad_request, malformed
from tinkex_server.state import ServerState
from tinkex_server.store import ModelRow


def find_custom_loss(
    state: ServerState, model: ModelRow, batch: ForwardBackwardInput, at: Location
) -> CustomLoss:
    """Returns the custom loss that the batch's config names. Raises `Refused` for one that the
    model's session does not have.
    """
    config: Mapping[str, Any] = batch.loss_fn_config or {}
    loss_id = config.get("loss_id")
    if set(config) != {"loss_id"} or not isinstance(loss_id, str):
        raise malformed(
            *at, "loss_fn_config", message="must hold loss_id, a string, and nothing else"
        )
    row = state.store.custom_losses.get(loss_id)
    if row is None or row.session_id != model.session_id:
        raise bad_request(
            f"session {model.session_id!r} has no custom loss {loss_id!r}; create it by "
            "create_custom_loss"
        )
    return row.loss

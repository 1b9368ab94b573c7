"""The requests that carry a batch, in each encoding, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

from attrs import evolve
from tinkex_api.api.training import forward, forward_backward
from tinkex_api.models import ForwardBackwardRequest, ForwardRequest, UntypedAPIFuture
from tinkex_api.types import File, Request

from tinkex.dialects.dialect import Dialect
from tinkex.futures.answers import Payload
from tinkex.losses.named import without_weight
from tinkex.training.encoded_requests import RequestBuilders
from tinkex.types import Datum, ForwardBackwardOutput
from tinkex.wire import json, protobuf


def batch_bodies(
    operation: str,
    model_id: str,
    data: Sequence[Datum],
    loss_fn: str,
    config: Mapping[str, float | str] | None,
    dialect: Dialect,
) -> RequestBuilders:
    """Returns the request of a `forward` or a `forward_backward`.

    In JSON a forward has a route of its own: a server that does not know a flag would train.
    """

    if operation == "forward" and dialect.forwards_by_zero_weights:
        operation, data = "forward_backward", [without_weight(datum) for datum in data]

    def as_json(seq_id: int) -> Request[UntypedAPIFuture]:
        batch = json.batch_without_data(loss_fn, config)
        if operation == "forward":
            request = forward.request(body=ForwardRequest(model_id, seq_id, batch))
        else:
            request = forward_backward.request(body=ForwardBackwardRequest(model_id, seq_id, batch))
        return evolve(request, content=json.with_data(request.content or b"", data))

    def as_protobuf(seq_id: int) -> Request[UntypedAPIFuture]:
        raw = protobuf.encode_forward_backward(
            model_id, seq_id, data, loss_fn, config, forward_only=operation == "forward"
        )
        if dialect.compress_protobuf:
            return forward_backward.request(
                body=File(BytesIO(protobuf.compress(raw))), content_encoding="zstd"
            )
        return forward_backward.request(body=File(BytesIO(raw)))

    return {"json": as_json, "protobuf": as_protobuf}


def read_batch(payload: Payload) -> ForwardBackwardOutput:
    """Returns the result of one request. Raises `ValueError` for a malformed or an empty one."""
    decode = (
        protobuf.decode_forward_backward
        if isinstance(payload, bytes)
        else json.decode_forward_backward
    )
    output = decode(payload)  # pyright: ignore[reportArgumentType]
    if not output.loss_fn_outputs and not output.metrics:
        raise ValueError("it holds neither outputs nor metrics")
    return output

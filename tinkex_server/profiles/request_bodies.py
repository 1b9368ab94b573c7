"""The decoding of request bodies as a profile's server does it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from tinkex_server.profiles.profile import Bodies
from tinkex_server.wire import bodies
from tinkex_server.wire.protobuf import MEDIA_TYPE, read_forward_backward
from tinkex_server.wire.raw_body import decompress
from tinkex_server.wire.refusals import RefusedWithStatus

_LONGEST = 1 << 30  # bytes of a decompressed body, where the profile has no limit


class HandlerDied(Exception):
    """The handler of the imitated server fails with an unhandled exception.

    The exception reaches uvicorn, which then closes the connection without a `Connection: close`.
    """


def read_fields(rule: Bodies, operation: str, request: Request, raw: bytes) -> dict[str, Any]:
    """Returns the fields of a body. Raises `Refused` or `HandlerDied` for one that the server does
    not read.
    """
    most = rule.most_bytes or _LONGEST
    is_protobuf = request.headers.get("content-type", "").startswith(MEDIA_TYPE)
    is_zstd = request.headers.get("content-encoding") == "zstd"
    is_known = rule.protobuf if is_protobuf else rule.json or operation != "forward_backward"
    if (
        not is_known
        or (is_zstd and not rule.zstd)
        or (is_protobuf and operation != "forward_backward")
    ):
        _refuse_encoding(rule, raw)
    if is_zstd:
        raw = decompress(raw, most)
    if len(raw) > most:
        raise RefusedWithStatus(413, f"the body is larger than {most} bytes")
    fields = read_forward_backward(raw) if is_protobuf else bodies.parse_object(raw)
    if not is_protobuf and operation == "forward_backward":
        fields.pop("forward_only", None)  # only the protobuf form has it
    return fields


def _refuse_encoding(rule: Bodies, raw: bytes) -> None:
    if isinstance(rule.other, int):
        raise RefusedWithStatus(rule.other, "Unsupported Content-Type")
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise HandlerDied("the handler could not decode the body") from None
    problem = {
        "type": "model_attributes_type",
        "loc": ["body"],
        "msg": "Input should be a valid dictionary",
    }
    raise RefusedWithStatus(422, [problem])

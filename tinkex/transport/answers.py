"""From an answer to what the contract says it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
from tinkex_api.models import CreateSessionResponse, UntypedAPIFuture
from tinkex_api.types import Request

from tinkex.config.secrets import without_queries
from tinkex.errors import APIResponseValidationError, NotATinkerServerError
from tinkex.transport import failures

T = TypeVar("T")

PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError)
"""What reading an answer of another form than the contract's ends in."""


def parse(request: Request[T], response: httpx.Response) -> T:
    """A 2xx answer as the contract has it.

    Raises `BadRequestError` where it is a refusal all the same, `NotATinkerServerError` for a web
    page, else `APIResponseValidationError`.
    """
    try:
        return _checked(request.parse(response), response)
    except PARSE_ERRORS as error:
        if refusal := failures.refusal_within(response, request.operation):
            raise refusal from error
        if "html" in response.headers.get("content-type", ""):
            raise NotATinkerServerError(
                f"{without_queries(str(response.request.url))} answers with a web page",
                operation=request.operation,
                advice="Check base_url: it is the URL below which /api/v1/… lies.",
            ) from error
        raise APIResponseValidationError(
            f"the answer is not of the contract's form: {type(error).__name__}: {error}",
            operation=request.operation,
            advice="Is base_url that of a Tinker server?",
        ) from error


def _checked(answer: T, response: httpx.Response) -> T:
    """Raises `ValueError` where nothing was taken for an answer: an empty list is no object without
    fields, an empty name none.
    """
    if hasattr(answer, "additional_properties") and not response.content.lstrip().startswith(b"{"):
        raise ValueError("it is no JSON object")
    match answer:
        case UntypedAPIFuture():
            required_text({"request_id": answer.request_id}, "request_id")
        case CreateSessionResponse():
            required_text({"session_id": answer.session_id}, "session_id")
        case _:
            pass
    return answer


def required_text(fields: Mapping[str, Any], name: str) -> str:
    """Returns a field that every server gives. Raises `ValueError` where it is missing, empty, or
    no text.
    """
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"its {name} is {value!r}")
    return value

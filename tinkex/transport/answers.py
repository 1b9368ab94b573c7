"""Parses answers, and checks that they have the form of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from tinkex_api.models import CreateSessionResponse, UntypedAPIFuture
from tinkex_api.types import Request

from tinkex.config.secrets import without_queries
from tinkex.errors import APIResponseValidationError, NotATinkerServerError
from tinkex.transport import failures
from tinkex.transport.port import Answer

T = TypeVar("T")

PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError)
"""The errors that parsing raises for an answer that breaks the contract."""


def parse(request: Request[T], answer: Answer) -> T:
    """Parses a 2xx answer.

    Raises:
        BadRequestError: the answer is a refusal despite its status.
        NotATinkerServerError: the answer is a web page.
        APIResponseValidationError: the answer breaks the contract in another way.
    """
    try:
        return _checked(request.parse(answer), answer)
    except PARSE_ERRORS as error:
        if refusal := failures.refusal_in_success(answer, request.operation):
            raise refusal from error
        if "html" in answer.headers.get("content-type", ""):
            raise NotATinkerServerError(
                f"{without_queries(answer.url)} answers with a web page",
                operation=request.operation,
                advice="Check base_url: it is the URL below which /api/v1/… lies.",
            ) from error
        raise APIResponseValidationError(
            f"the server's answer breaks the API contract: {type(error).__name__}: {error}",
            operation=request.operation,
            advice="Is base_url that of a Tinker server?",
        ) from error


def _checked(value: T, answer: Answer) -> T:
    """Raises `ValueError` for an answer that the lenient parser accepted though it says nothing:
    an empty list in place of an object, or an empty id.
    """
    if hasattr(value, "additional_properties") and not answer.content.lstrip().startswith(b"{"):
        raise ValueError("not a JSON object")
    match value:
        case UntypedAPIFuture():
            required_text({"request_id": value.request_id}, "request_id")
        case CreateSessionResponse():
            required_text({"session_id": value.session_id}, "session_id")
        case _:
            pass
    return value


def required_text(fields: Mapping[str, Any], name: str) -> str:
    """Returns a text that every server gives. Raises `ValueError` if it is missing, empty, or of
    another type.
    """
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"its {name} is {value!r}")
    return value

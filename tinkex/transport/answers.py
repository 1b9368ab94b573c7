"""From an answer to what the contract says it is."""

from __future__ import annotations

from typing import TypeVar

import httpx
from tinkex_api.types import Request

from tinkex.errors import APIResponseValidationError, NotATinkerServerError
from tinkex.transport import failures

T = TypeVar("T")

PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError)
"""What reading an answer of another form than the contract's ends in."""


def parse(request: Request[T], response: httpx.Response) -> T:
    """A 2xx answer as the contract has it.

    Raises `BadRequestError` where it is a refusal all the same, `NotATinkerServerError` for a web page, else `APIResponseValidationError`.
    """
    try:
        return request.parse(response)
    except PARSE_ERRORS as error:
        if refusal := failures.refusal_within(response, request.operation):
            raise refusal from error
        if "html" in response.headers.get("content-type", ""):
            raise NotATinkerServerError(
                f"{response.request.url} answers with a web page",
                operation=request.operation,
                advice="Check base_url: it is the URL below which /api/v1/… lies.",
            ) from error
        raise APIResponseValidationError(
            f"the answer is not of the contract's form: {type(error).__name__}: {error}",
            operation=request.operation,
            advice="Is base_url that of a Tinker server?",
        ) from error

"""Turns failed exchanges and HTTP error statuses into the errors of `tinkex.errors`."""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import orjson

from tinkex.config.secrets import without_queries
from tinkex.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    FailurePoint,
    status_error_class,
)
from tinkex.transport.port import Answer, ExchangeFailed
from tinkex.transport.unreachable import Reason

_MAX_CHARACTERS = 4000
"""The most characters of a server's text in a message; `body` holds the whole text."""
_CHARACTERS_OF_PAGE = 200
_MARKUP = re.compile(r"<(style|script|head)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_ADVICE = {
    401: (
        "Check TINKER_API_KEY, or api_key=…; `print(config.describe())` shows where the key comes "
        "from."
    ),
    402: "The account of this key has no credit left; see the server's billing page.",
    404: "The object does not exist, or this server lacks the call; check base_url and the ids.",
    429: "The server is saturated: send fewer requests at once, or raise Config.retry.max_seconds.",
}


def connection_error(failed: ExchangeFailed, operation: str, base_url: str) -> APIConnectionError:
    """Returns the error for an exchange that failed without an answer."""
    failure_point, proxy = failed.failure_point, failed.proxy
    if failed.reason is not None:
        return _unreachable(failed.reason, failure_point, operation, base_url)
    sent = failure_point in ("unanswered", "answered")
    kind = APITimeoutError if failed.late and sent else APIConnectionError
    what = (
        "gave no answer in time"
        if kind is APITimeoutError
        else "closed the connection"
        if sent
        else "cannot be reached"
    )
    raised = kind(
        f"{base_url} {what}{f' through the proxy {proxy}' if proxy else ''}: {failed.text}",
        operation=operation,
        advice=(
            "Is the server running, and is base_url right? `tinkex serve` prints the URL of a "
            "local server."
        ),
    )
    raised.failure_point = failure_point
    return raised


def _unreachable(
    reason: Reason, failure_point: FailurePoint, operation: str, base_url: str
) -> APIConnectionError:
    raised = APIConnectionError(
        f"{base_url} cannot be reached: {reason.text}", operation=operation, advice=reason.advice
    )
    raised.failure_point, raised.fault, raised.retryable = (
        failure_point,
        reason.fault,
        reason.retryable,
    )
    return raised


def status_error(answer: Answer, operation: str) -> APIStatusError:
    """Returns the error for an answer with an error status.

    Servers put the message into different fields; `detail` finds it.
    """
    body = _body(answer)
    url = answer.url
    return status_error_class(answer.status_code)(
        f"{answer.status_code} {without_queries(detail(body), url) or _phrase(answer)}",
        status_code=answer.status_code,
        body=without_queries(body, url) if isinstance(body, str) else body,
        headers=dict(answer.headers),
        operation=operation,
        advice=_advice(answer),
    )


def _phrase(answer: Answer) -> str:
    """Returns the server's words for the status, or else those of the standard."""
    with suppress(ValueError):  # a status that the standard does not have
        return answer.reason_phrase or HTTPStatus(answer.status_code).phrase
    return ""


def _advice(answer: Answer) -> str | None:
    if answer.is_redirect:
        return (
            f"The server redirects to {without_queries(answer.headers['location'])!r}; give the "
            "base_url of the server that answers."
        )
    advice = _ADVICE.get(answer.status_code)
    if (
        answer.status_code == 400
        and "http request" in (text := answer.text[:_MAX_CHARACTERS].lower())
        and "https" in text
    ):
        advice = "The server speaks TLS: give its URL as https://…"
    proxy = answer.proxy
    if proxy is None:
        return advice
    doubt = f"The answer came through the proxy {proxy}, which may have sent it itself."
    return f"{advice} {doubt}" if advice else doubt


def refusal_in_success(answer: Answer, operation: str) -> BadRequestError | None:
    """Returns the error for a refusal with a success status; None for any other answer.

    One server answers so, with the fields `error` and `reason`.
    """
    body = _body(answer)
    if not (isinstance(body, dict) and body.get("error")):  # pyright: ignore[reportUnknownMemberType]
        return None
    reason: Any = body.get("reason")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return BadRequestError(
        f"{detail(body)}: {reason}" if reason else detail(body),
        status_code=answer.status_code,
        body=body,
        headers=dict(answer.headers),
        operation=operation,
    )


def _body(answer: Answer) -> Any:
    try:
        return orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return answer.text


def detail(body: Any) -> str:
    """Returns the human-readable part of an error body.

    That is its field `detail` (a text or a list of problems with locations), `error` or `message`,
    or the body itself if it is a text.
    """
    if isinstance(body, str):
        return _text_of_page(body) if is_web_page(body) else body[:_MAX_CHARACTERS]
    if not isinstance(body, dict):
        return ""
    for name in ("detail", "error", "error_message", "message"):
        value: Any = body.get(name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(value, list):
            return "; ".join(_problem(item) for item in value)[:_MAX_CHARACTERS]  # pyright: ignore[reportUnknownVariableType]
        if value:
            return str(value)[:_MAX_CHARACTERS]  # pyright: ignore[reportUnknownArgumentType]
    return ""


def _text_of_page(page: str) -> str:
    return " ".join(_MARKUP.sub(" ", page[:_MAX_CHARACTERS]).split())[:_CHARACTERS_OF_PAGE]


def is_web_page(body: Any) -> bool:
    return isinstance(body, str) and body.lstrip()[:15].lower().startswith(
        ("<!doctype html", "<html")
    )


def _problem(item: Any) -> str:
    """Formats one problem of a 422: `{loc: [...], msg: ...}`."""
    if isinstance(item, dict) and "msg" in item:
        return f"{'.'.join(map(str, item.get('loc', ())))}: {item['msg']}"  # pyright: ignore
    return str(item)  # pyright: ignore[reportUnknownArgumentType]

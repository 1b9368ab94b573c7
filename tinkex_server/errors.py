"""`Refused`: a request that is refused before anything is queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import TypeAlias

from attrs import frozen

Location: TypeAlias = tuple[str | int, ...]
"""A place in a body, as the keys and indices that lead to it."""
Detail: TypeAlias = str | Sequence[Mapping[str, object]]
"""The text of a refusal, or its list of problems."""


class Reason(Enum):
    """A reason to refuse a request. `tinkex_server.wire.refusals` has the HTTP status of each."""

    BAD_REQUEST = auto()
    """It asks for what is impossible, or for what the state of the server does not allow."""
    UNAUTHENTICATED = auto()
    """It has no valid API key or token."""
    FORBIDDEN = auto()
    """Its sender may not do this."""
    NOT_FOUND = auto()
    """It names what does not exist, or what the sender may not see."""
    CONFLICT = auto()
    """It contradicts an earlier request."""
    GONE = auto()
    """It asks for what the server no longer keeps."""
    TOO_LARGE = auto()
    """Its body is too large."""
    UNSUPPORTED_MEDIA_TYPE = auto()
    """Its body has a form that the server does not read."""
    MALFORMED = auto()
    """A field of its body or of its query is missing or has a wrong value."""
    TOO_MANY_PENDING = auto()
    """Too many accepted requests are not done yet."""
    SERVER_FAULT = auto()
    """The server failed at what it asks for."""
    UNAVAILABLE = auto()
    """The server cannot serve it now."""
    STORAGE_FULL = auto()
    """The server could not write what belongs to it."""


@frozen
class Problem:
    """One problem of a body: its place there, and what is wrong."""

    location: Location
    message: str

    def to_dict(self) -> dict[str, object]:
        """Returns the problem in the form of FastAPI's validation errors."""
        return {"loc": ["body", *self.location], "msg": self.message, "type": "value_error"}


class Refused(Exception):
    """A request that the server refuses, for a reason and with a text or a list of problems.

    The seq_id of such a request counts as used, so later requests of the model do not wait for it:
    see `tinkex_server.jobs.refused_seq_ids`.
    """

    def __init__(self, reason: Reason, detail: Detail, *, retry_after: int | None = None) -> None:
        """Refuses a request. `retry_after` is the seconds until a retry makes sense."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after
        self.fields: Mapping[str, object] = {}
        """The fields of the refused body, as far as it could be read."""

    def append(self, words: str) -> None:
        """Appends words to the text of the refusal, or to that of each of its problems."""
        self.detail = (
            self.detail + words
            if isinstance(self.detail, str)
            else [{**problem, "msg": f"{problem['msg']}{words}"} for problem in self.detail]
        )


def bad_request(text: str) -> Refused:
    """Returns a refusal of what is impossible, or not allowed by the state of the server."""
    return Refused(Reason.BAD_REQUEST, text)


def not_found(text: str) -> Refused:
    """Returns a refusal of what names something that does not exist."""
    return Refused(Reason.NOT_FOUND, text)


def malformed(*location: str | int, message: str) -> Refused:
    """Returns a refusal for a field that is missing or of the wrong kind."""
    return malformed_at([Problem(location, message)])


def malformed_at(problems: Sequence[Problem]) -> Refused:
    """Returns a refusal for several problems of a body."""
    return Refused(Reason.MALFORMED, [problem.to_dict() for problem in problems])

"""`Refused`: a request that is refused before anything is queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from attrs import frozen

Location: TypeAlias = tuple[str | int, ...]
"""A place in a body, as the keys and indices that lead to it."""
Detail: TypeAlias = str | Sequence[Mapping[str, object]]
"""The text of a refusal, or its list of problems."""


@frozen
class Problem:
    """One problem of a body: its place there, and what is wrong."""

    location: Location
    message: str

    def to_dict(self) -> dict[str, object]:
        """Returns the problem in the form of FastAPI's validation errors."""
        return {"loc": ["body", *self.location], "msg": self.message, "type": "value_error"}


class Refused(Exception):
    """A request that is answered with `status` and the body `{"detail": …}`.

    The seq_id of such a request counts as used, so later requests of the model do not wait for it:
    see `tinkex_server.jobs.refused_seq_ids`.
    """

    def __init__(self, status: int, detail: Detail, *, retry_after: int | None = None) -> None:
        """Refuses with an HTTP status. `retry_after` is the seconds until a retry makes sense."""
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.fields: Mapping[str, object] = {}
        """The fields of the refused body, as far as it could be read."""

    def adding(self, words: str) -> Refused:
        """Returns the same refusal with `words` appended to its text."""
        detail = self.detail
        longer_detail = (
            detail + words
            if isinstance(detail, str)
            else [{**problem, "msg": f"{problem['msg']}{words}"} for problem in detail]
        )
        longer = Refused(self.status, longer_detail)
        longer.headers, longer.fields = self.headers, self.fields
        return longer


def bad_request(text: str) -> Refused:
    """Returns a refusal with status 400."""
    return Refused(400, text)


def not_found(text: str) -> Refused:
    """Returns a refusal with status 404."""
    return Refused(404, text)


def malformed(*location: str | int, message: str) -> Refused:
    """Returns a refusal with status 422 for a field that is missing or of the wrong kind."""
    return malformed_at([Problem(location, message)])


def malformed_at(problems: Sequence[Problem]) -> Refused:
    """Returns a refusal with status 422 for several problems of a body."""
    return Refused(422, [problem.to_dict() for problem in problems])

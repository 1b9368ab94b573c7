"""`Refused`: a request that is turned down before anything is queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from attrs import frozen


@frozen
class Problem:
    """One fault of a body: where it is, as keys and indices, and what is wrong there."""

    location: tuple[str | int, ...]
    message: str

    def to_dict(self) -> dict[str, object]:
        return {"loc": ["body", *self.location], "msg": self.message, "type": "value_error"}


Detail: TypeAlias = str | Sequence[Mapping[str, object]]


class Refused(Exception):
    """Answered with `status` and the body `{"detail": …}`. The turn of its seq_id passes, see
    `tinkex_server.jobs.refused_seq_ids`.
    """

    def __init__(self, status: int, detail: Detail, *, retry_after: int | None = None) -> None:
        """`retry_after` is in how many seconds it may be taken."""
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.fields: Mapping[str, object] = {}
        """Of the body that was refused as it was read, as far as that went."""

    def adding(self, words: str) -> Refused:
        """Returns the same refusal with these words after its own."""
        detail = self.detail
        said = (
            detail + words
            if isinstance(detail, str)
            else [{**problem, "msg": f"{problem['msg']}{words}"} for problem in detail]
        )
        longer = Refused(self.status, said)
        longer.headers, longer.fields = self.headers, self.fields
        return longer


def bad_request(text: str) -> Refused:
    return Refused(400, text)


def not_found(text: str) -> Refused:
    return Refused(404, text)


def malformed(*location: str | int, message: str) -> Refused:
    """A body whose field at `location` is missing or of the wrong kind."""
    return malformed_at([Problem(location, message)])


def malformed_at(problems: Sequence[Problem]) -> Refused:
    return Refused(422, [problem.to_dict() for problem in problems])

"""The requests that failed or were refused, so that a person sees why a program stopped."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from attrs import frozen

from tinkex_server.access.ownership import Access
from tinkex_server.pages.names import Subject, subject_of
from tinkex_server.state import CommonState

_SIDES = {"user": "the request", "server": "the server", "order": "the order of requests"}


@frozen
class Failure:
    """Requests that failed for one reason."""

    subject: Subject
    operation: str
    error: str
    cause: str
    """The side that caused it."""
    count: int
    at: float
    """The time of the last of them."""


def failures(
    state: CommonState, access: Access, limit: int, offset: int = 0, scope: str | None = None
) -> Sequence[Failure]:
    """Returns a page of failures that a caller may see, of one scope or of all, the newest first.

    Requests that failed are in the store for as long as results are; those that were refused
    before they were queued are in memory.
    """
    stored = state.store.futures.failures(access.owner, scope, offset + limit, 0)
    failed = (
        (row.at, row.scope, row.kind, row.error, _SIDES[row.category or "user"], row.count)
        for row in stored
    )
    refused = (
        (row.at, row.scope, row.operation, row.reason, _SIDES["user"], row.count)
        for row in state.refusals.newest(access, scope)
    )
    rows = list(_merged(failed, refused))[offset : offset + limit]
    return [
        Failure(subject_of(state, of), operation, error, cause, count, at)
        for at, of, operation, error, cause, count in rows
    ]


def count_failures(state: CommonState, access: Access, scope: str | None = None) -> int:
    """Returns the number of failures that all pages list."""
    refused = len(state.refusals.newest(access, scope))
    return state.store.futures.count_failures(access.owner, scope) + refused


_Row = tuple[float, str, str, str, str, int]


def _merged(*rows: Iterable[_Row]) -> Iterable[_Row]:
    return heapq.merge(*rows, key=lambda row: row[0], reverse=True)

"""The requests of searches for checkpoints and sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attrs import field, frozen
from tinkex_api.models import (
    CheckpointSearchCursor,
    SearchOwner,
    SessionSearchCursor,
    SessionStatusQuery,
)
from tinkex_api.types import Model

from tinkex.errors import InvalidInputError
from tinkex.errors.hints import hinted
from tinkex.types.checkpoint_path import CheckpointType
from tinkex.types.number_checks import check_int

AccessScope = Literal["owned", "accessible"]
"""The user's own items, or all that the user may read."""
AuditEventType = Literal["all", "checkpoints", "projects", "teams", "organizations"]

_LONGEST_PAGE = 200
_MOST_OWNERS = 10


def _check_limit(_request: object, _attribute: object, limit: int) -> None:
    check_int("limit", limit, 1, _LONGEST_PAGE)


def _check_statuses(_request: object, _attribute: object, statuses: Sequence[Any] | None) -> None:
    if statuses is not None and not statuses:
        raise InvalidInputError("statuses must name at least one state; leave it out to search all")


def _check_owner(_request: object, _attribute: object, owner: SearchOwner) -> None:
    if owner.type == "user" and not 1 <= len(owner.owner_urns or ()) <= _MOST_OWNERS:
        raise InvalidInputError(f"owner of type user must have 1 to {_MOST_OWNERS} owner_urns")


@hinted
@frozen(kw_only=True)
class CheckpointSearchRequest(Model):
    """A search for checkpoints: those that meet all of its conditions are found.

    Example:
        >>> request = CheckpointSearchRequest(
        ...     user_metadata={"experiment": "7"}, checkpoint_type="sampler"
        ... )
        >>> request.limit
        50

    Raises:
        InvalidInputError: `limit` is not from 1 to 200, or an owner of type user does not have 1 to
            10 `owner_urns`.
    """

    project_ids: Sequence[str] | None = None
    """The projects to search; None for all."""
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    """Key-value pairs that the checkpoint must all have."""
    checkpoint_type: CheckpointType | None = None
    owner: SearchOwner = field(factory=SearchOwner, validator=_check_owner)
    """The owner: by default the user; `SearchOwner("accessible")` for all that the user may read,
    or `SearchOwner("user", owner_urns=[...])` for others.
    """
    base_models: Sequence[str] | None = None
    """The base models to search; None for all, and with an empty list nothing is found."""
    limit: int = field(default=50, validator=_check_limit)
    """The largest number of items per page, from 1 to 200."""
    cursor: CheckpointSearchCursor | None = None
    """The `next_cursor` of the page before; None for the first page."""


@hinted
@frozen(kw_only=True)
class SessionSearchRequest(Model):
    """A search for sessions: those that meet all of its conditions are found, except that of
    `session_id` and `display_name` one is enough.

    Example:
        >>> request = SessionSearchRequest(
        ...     user_metadata={"experiment": "7"}, statuses=[SessionStatusQuery("active")]
        ... )
        >>> request.limit
        50

    Raises:
        InvalidInputError: `limit` is not from 1 to 200, `statuses` is empty, or an owner of type
            user does not have 1 to 10 `owner_urns`.
    """

    session_id: str | None = None
    project_ids: Sequence[str] | None = None
    """The projects to search; None for all."""
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    """Key-value pairs that the session must all have."""
    display_name: str | None = None
    """Words of the session's name; upper and lower case are the same."""
    owner: SearchOwner = field(factory=SearchOwner, validator=_check_owner)
    """The owner: by default the user; `SearchOwner("accessible")` for all that the user may read,
    or `SearchOwner("user", owner_urns=[...])` for others.
    """
    statuses: Sequence[SessionStatusQuery] | None = field(default=None, validator=_check_statuses)
    """The states to search, active, cancelled, failed or client_finished, each optionally with
    `reasons`; None for all.
    """
    limit: int = field(default=50, validator=_check_limit)
    """The largest number of items per page, from 1 to 200."""
    cursor: SessionSearchCursor | None = None
    """The `next_cursor` of the page before; None for the first page."""

"""What the management calls ask for."""

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
"""One's own, or all that one may read."""
AuditEventType = Literal["all", "checkpoints", "projects", "teams", "organizations"]

_LONGEST_PAGE = 200
_MOST_OWNERS = 10


def _check_limit(_request: object, _attribute: object, limit: int) -> None:
    check_int("limit", limit, 1, _LONGEST_PAGE)


def _check_statuses(_request: object, _attribute: object, statuses: Sequence[Any] | None) -> None:
    if statuses is not None and not statuses:
        raise InvalidInputError("statuses must name one state or more; leave it out for all")


def _check_owner(_request: object, _attribute: object, owner: SearchOwner) -> None:
    if owner.type == "user" and not 1 <= len(owner.owner_urns or ()) <= _MOST_OWNERS:
        raise InvalidInputError(f"owner of type user must have 1 to {_MOST_OWNERS} owner_urns")


@hinted
@frozen(kw_only=True)
class CheckpointSearchRequest(Model):
    """Conditions that must all hold for a checkpoint to be found.

    Example:
        >>> CheckpointSearchRequest(user_metadata={"experiment": "7"}, checkpoint_type="sampler").limit 50

    Raises:
        InvalidInputError: a value is outside of what the service takes.
    """

    project_ids: Sequence[str] | None = None
    """Of any of these projects."""
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    """Pairs that the checkpoint must all have."""
    checkpoint_type: CheckpointType | None = None
    owner: SearchOwner = field(factory=SearchOwner, validator=_check_owner)
    """One's own by default; `SearchOwner("accessible")`, `SearchOwner("user", owner_urns=[…])`."""
    base_models: Sequence[str] | None = None
    """Of any of these base models; of an empty list nothing is found."""
    limit: int = field(default=50, validator=_check_limit)
    """Longest page."""
    cursor: CheckpointSearchCursor | None = None
    """Where the page before ended: its `next_cursor`."""


@hinted
@frozen(kw_only=True)
class SessionSearchRequest(Model):
    """Conditions that must all hold; only of `session_id` and `display_name` either is enough.

    Example:
        >>> SessionSearchRequest(user_metadata={"experiment": "7"}, statuses=[SessionStatusQuery("active")]).limit 50

    Raises:
        InvalidInputError: a value is outside of what the service takes.
    """

    session_id: str | None = None
    project_ids: Sequence[str] | None = None
    """Of any of these projects."""
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    """Pairs that the session must all have."""
    display_name: str | None = None
    """Words of its name, in any case."""
    owner: SearchOwner = field(factory=SearchOwner, validator=_check_owner)
    """One's own by default; `SearchOwner("accessible")`, `SearchOwner("user", owner_urns=[…])`."""
    statuses: Sequence[SessionStatusQuery] | None = field(default=None, validator=_check_statuses)
    """In any of these states: active, cancelled, failed, or client_finished, maybe for `reasons`.
    """
    limit: int = field(default=50, validator=_check_limit)
    """Longest page."""
    cursor: SessionSearchCursor | None = None
    """Where the page before ended: its `next_cursor`."""

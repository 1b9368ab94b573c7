"""`WhoamiResponse`: the owner of a credential."""

from __future__ import annotations

from attrs import frozen
from tinkex_api.types import Model, OwnFuture


@frozen(kw_only=True)
class WhoamiResponse(Model, OwnFuture):
    """The user and the organization that a credential belongs to, by the names that the service has
    for them.
    """

    user_urn: str
    org_urn: str
    email: str | None = None

"""`WhoamiResponse`: the owner of a credential."""

from __future__ import annotations

from attrs import frozen
from tinkex_api.types import Model, OwnFuture


@frozen(kw_only=True)
class WhoamiResponse(Model, OwnFuture):
    """The user and the organization that a credential belongs to, by the names that the service has
    for them.

    Example:
        try:
            me = rest.whoami()
            print(me.user_urn, me.org_urn)
        except InvalidInputError as error:  # the key names no user
            print(error.advice)
    """

    user_urn: str
    org_urn: str
    email: str | None = None

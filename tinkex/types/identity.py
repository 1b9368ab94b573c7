"""`WhoamiResponse`: who the credential belongs to."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class WhoamiResponse:
    """A user and their organization, by the names that the service has for them."""

    user_urn: str
    org_urn: str
    email: str | None = None

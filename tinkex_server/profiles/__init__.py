"""Imitations of other Tinker servers on the wire, for tests of clients.

`table.py` has one `Profile` for each kind of server. `middleware.py` applies a profile between the
network and the embedded server's own application.
"""

from __future__ import annotations

from tinkex_server.profiles.profile import Profile
from tinkex_server.profiles.table import PROFILES, TINKEX

__all__ = ["PROFILES", "TINKEX", "Profile", "UnknownProfile", "find_profile"]


class UnknownProfile(ValueError):
    """The name is not that of a profile."""


def find_profile(name: str) -> Profile:
    """Returns a profile by its name. Raises `UnknownProfile`, with all names."""
    if name not in PROFILES:
        raise UnknownProfile(f"unknown profile {name!r}; the profiles are {', '.join(PROFILES)}")
    return PROFILES[name]

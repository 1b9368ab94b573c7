"""The kinds of Tinker server that the embedded server can look like on the wire, for tests of
clients.

`table.py` has one `Profile` for each; `edge.py` puts it between the network and the embedded
server's own application.
"""

from __future__ import annotations

from tinkex_server.profiles.profile import Profile
from tinkex_server.profiles.table import PROFILES, TINKEX

__all__ = ["PROFILES", "TINKEX", "Profile", "UnknownProfile", "find_profile"]


class UnknownProfile(ValueError):
    """There is no profile of that name."""


def find_profile(name: str) -> Profile:
    """Raises `UnknownProfile`, with the names that there are."""
    if name not in PROFILES:
        raise UnknownProfile(f"unknown profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]

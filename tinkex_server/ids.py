"""The formats of the ids that a server assigns. To clients an id is opaque, so a profile may change
each format.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import uuid
from collections.abc import Callable, Mapping

from attrs import frozen


@frozen(kw_only=True)
class Ids:
    """The formats of ids, as templates for `str.format`.

    Random parts are `{hex}`, `{uuid}`, `{decimal}` and `{timed}`, which begins with the time. The
    id of a model or a sampling session follows from its `{session_id}` and its `{number}` there, or
    from the `{digest}` of both, so that a repeated request gets the same id.
    """

    session: str = "s-{hex}"
    model: str = "{session_id}:train:{number}"
    sampler: str = "{session_id}:sample:{number}"
    request: str = "{timed}"

    def new_session(self) -> str:
        """Returns the id of a new session."""
        return self.session.format_map(_RANDOM)

    def new_request(self) -> str:
        """Returns the id of a new request."""
        return self.request.format_map(_RANDOM)

    def model_of(self, session_id: str, number: int | None) -> str:
        """Returns the id of a model of a session."""
        return _derived(self.model, "model", session_id, number)

    def sampler_of(self, session_id: str, number: int) -> str:
        """Returns the id of a sampling session of a session."""
        return _derived(self.sampler, "sampler", session_id, number)


def _timed() -> str:
    """Returns a random part that begins with the time. Ids that are made one after the other are
    then neighbours in the database's index, so writing them together changes few of its pages.
    """
    return f"{time.time_ns() >> 20:012x}{os.urandom(8).hex()}"


class _RandomParts:
    """The random parts of an id, each made anew when a format asks for it."""

    def __getitem__(self, kind: str) -> object:
        return _RANDOM_PARTS[kind]()


_RANDOM_PARTS: Mapping[str, Callable[[], object]] = {
    "hex": lambda: secrets.token_hex(12),
    "timed": _timed,
    "uuid": uuid.uuid4,
    "decimal": lambda: secrets.randbelow(10**15),
}
_RANDOM = _RandomParts()


def _derived(form: str, kind: str, session_id: str, number: int | None) -> str:
    # numbers of requests are unique within an id, so a model and a sampler must not share one
    digest = hashlib.blake2b(f"{kind} {session_id} {number}".encode(), digest_size=8).hexdigest()
    return form.format(session_id=session_id, number=number, digest=digest)

"""The forms of the ids that a server gives out. Clients must take them as they are, so a profile
may change each.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid
from collections.abc import Callable, Mapping

from attrs import frozen


@frozen(kw_only=True)
class Ids:
    """Forms for `str.format`. A random part is `{hex}`, `{uuid}` or `{decimal}`, or `{timed}`,
    which begins with the time.

    A model's and a sampler's id follows from `{session_id}` and its `{number}` there, or from the
    `{digest}` of both, so that a repeated request names the same one.
    """

    session: str = "s-{hex}"
    model: str = "{session_id}:train:{number}"
    sampler: str = "{session_id}:sample:{number}"
    request: str = "{timed}"

    def new_session(self) -> str:
        return _random(self.session)

    def new_request(self) -> str:
        return _random(self.request)

    def model_of(self, session_id: str, number: int | None) -> str:
        return _derived(self.model, session_id, number)

    def sampler_of(self, session_id: str, number: int) -> str:
        return _derived(self.sampler, session_id, number)


def _random(form: str) -> str:
    return form.format_map(_Drawn())


class _Drawn(dict[str, object]):
    """Draws what the form asks for, and nothing else: a request has an id of its own."""

    def __missing__(self, kind: str) -> object:
        return _DRAWS[kind]()


def _timed() -> str:
    """Ids made one after another are neighbours in the database's index, so that what is written
    together changes few of its pages.
    """
    return f"{time.time_ns() >> 20:012x}{secrets.token_hex(8)}"


_DRAWS: Mapping[str, Callable[[], object]] = {
    "hex": lambda: secrets.token_hex(12),
    "timed": _timed,
    "uuid": uuid.uuid4,
    "decimal": lambda: secrets.randbelow(10**15),
}


def _derived(form: str, session_id: str, number: int | None) -> str:
    digest = hashlib.blake2b(f"{session_id} {number}".encode(), digest_size=8).hexdigest()
    return form.format(session_id=session_id, number=number, digest=digest)

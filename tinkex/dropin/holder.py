"""`Holder`: of the object behind the clients of the official SDK, the part that programs read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn


class Holder:
    """The session of a client, by which programs look up what they did, as in
    `rest.get_session(service.holder.get_session_id())`.

    Args:
        session_id: returns the id of the session, and begins one where there is none yet.
    """

    def __init__(self, session_id: Callable[[], str]) -> None:
        self._session = session_id

    def get_session_id(self) -> str:
        """Returns the id of the session."""
        return self._session()

    @property
    def _session_id(self) -> str:
        return self._session()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(
                f"holder has no {name} here: it is the official SDK's own object, of which tinkex "
                "has get_session_id(). Use the public methods of the clients; in an "
                "event loop, await their futures.",
                name=name,
                obj=self,
            )


class ServiceHolder(Holder):
    """The session of a service client, which it ends.

    Args:
        session_id: as for `Holder`.
        close: ends the session.
    """

    def __init__(self, session_id: Callable[[], str], close: Callable[[], object]) -> None:
        super().__init__(session_id)
        self._close = close

    def close(self) -> None:
        """Closes the service client."""
        self._close()

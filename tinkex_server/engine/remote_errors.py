"""The errors of an engine in another process, as values that the server can read: their classes may
need modules that the server must not import.
"""

from __future__ import annotations

import traceback

from attrs import frozen

from tinkex_server.engine.interface import EngineDied, EngineGone, InvalidRequest

_KINDS = InvalidRequest, EngineGone, EngineDied
"""The classes of errors that mean the same everywhere, those before their bases."""


class EngineError(RuntimeError):
    """An unexpected error in an engine's process. The text begins with the error's class there;
    the notes hold its traceback.
    """


@frozen
class RemoteError:
    """An error in an engine's process, as text."""

    kind: type[InvalidRequest | EngineDied] | None
    """The class of the error, None if it is unexpected."""
    text: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> RemoteError:
        """Returns the description of an error, in the process where it was raised."""
        kind = next((one for one in _KINDS if isinstance(error, one)), None)
        text = str(error) if kind else f"{type(error).__name__}: {error}"
        return cls(kind, text, "".join(traceback.format_exception(error)))

    def error(self) -> Exception:
        """Returns an error to raise in the server's process."""
        if self.kind:
            return self.kind(self.text)
        error = EngineError(self.text)
        error.add_note(f"in the engine process:\n{self.trace}")
        return error


def startup_error(raised: RemoteError) -> EngineDied:
    """Returns the error of all calls of an engine that could not start."""
    error = EngineDied(f"the engine could not start: {raised.text}")
    error.__cause__ = raised.error()
    return error

"""`RequestJournal`: a record of training requests by which another process continues a model."""

from __future__ import annotations

from typing import Protocol


class RequestJournal(Protocol):
    """A record of the numbered requests of models. `Session.journal` is told of each of them.

    A model is continued by a training client in a session that `Session.resume` made, with the
    last number that was accepted. A request that was sent, and neither accepted nor refused, has an
    outcome that nobody knows: its model cannot be continued.
    """

    def sending(self, model_id: str, operation: str, seq_id: int, requests: int) -> None:
        """Notes that a request is about to be sent, of a call that consists of so many requests."""
        ...

    def accepted(self, model_id: str, seq_id: int, request_id: str) -> None:
        """Notes the id under which the server has accepted a request."""
        ...

    def refused(self, model_id: str, next_seq_id: int) -> None:
        """Notes that the server accepted no request from this number on, which is the next one."""
        ...

"""`Bodies`: the requests of one call, encoded in threads, each while the one before it travels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tinkex_api.models import UntypedAPIFuture
from tinkex_api.types import Request

from tinkex.dialects.dialect import Encoding
from tinkex.threads import in_thread

BuildRequest = Callable[[int], Request[UntypedAPIFuture]]
"""Makes the request for a seq_id."""
BodiesByEncoding = Mapping[Encoding, BuildRequest]
"""A request in each of the encodings that it has."""


class Bodies:
    """Requests that are to get consecutive numbers. What was encoded for a number that came
    otherwise is encoded anew.
    """

    def __init__(self, submits: Sequence[BodiesByEncoding], encodings: Sequence[Encoding]) -> None:
        self._submits = submits
        self._encodings = encodings
        self._ahead: dict[tuple[int, Encoding, int], asyncio.Task[Request[UntypedAPIFuture]]] = {}

    def __len__(self) -> int:
        return len(self._submits)

    def encodings(self, index: int) -> Sequence[Encoding]:
        """In which a request can be sent, the best first."""
        return self._encodings if len(self._submits[index]) > 1 else tuple(self._submits[index])

    def begin(self, index: int, seq_id: int) -> None:
        """Encodes a request ahead of its time; one that there is not, or that was begun, is
        left.
        """
        if index < len(self._submits):
            key = (index, self.encodings(index)[0], seq_id)
            if key not in self._ahead:
                self._ahead[key] = asyncio.create_task(self._encode(*key))

    async def get(self, index: int, encoding: Encoding, seq_id: int) -> Request[UntypedAPIFuture]:
        """The encoded request. Raises what its encoding raises."""
        task = self._ahead.pop((index, encoding, seq_id), None)
        return await (task or self._encode(index, encoding, seq_id))

    def drop(self) -> None:
        """Forgets what was encoded and not asked for."""
        for task in self._ahead.values():
            task.cancel()
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._ahead.clear()

    async def _encode(
        self, index: int, encoding: Encoding, seq_id: int
    ) -> Request[UntypedAPIFuture]:
        return await in_thread(self._submits[index][encoding], seq_id)

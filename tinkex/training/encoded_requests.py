"""`EncodedRequests`: the requests of one call, encoded in threads ahead of their time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tinkex_api.models import UntypedAPIFuture
from tinkex_api.types import Request

from tinkex.dialects.dialect import Encoding
from tinkex.errors import InvalidInputError, TinkexError
from tinkex.threads import in_thread

BuildRequest = Callable[[int], Request[UntypedAPIFuture]]
"""A function that builds the request for a seq_id."""
RequestBuilders = Mapping[Encoding, BuildRequest]
"""The builders of one request, by the encodings in which it can be sent, the best first."""


class EncodedRequests:
    """The requests of one call, which get consecutive numbers.

    Each is encoded while the one before it travels. One that was encoded for another number than
    it gets is encoded again.
    """

    def __init__(self, bodies: Sequence[RequestBuilders], encodings: Sequence[Encoding]) -> None:
        self._bodies = bodies
        self._encodings = encodings
        self._ahead: dict[tuple[int, Encoding, int], asyncio.Task[Request[UntypedAPIFuture]]] = {}

    def __len__(self) -> int:
        return len(self._bodies)

    def encodings(self, index: int) -> Sequence[Encoding]:
        """Returns the encodings in which a request can be sent, the best first."""
        return self._encodings if len(self._bodies[index]) > 1 else tuple(self._bodies[index])

    def encode_ahead(self, index: int, seq_id: int) -> None:
        """Begins to encode a request in its best encoding, if it exists and was not begun yet."""
        if index < len(self._bodies):
            key = (index, self.encodings(index)[0], seq_id)
            if key not in self._ahead:
                self._ahead[key] = asyncio.create_task(self._encode(*key))

    async def get(self, index: int, encoding: Encoding, seq_id: int) -> Request[UntypedAPIFuture]:
        """Returns an encoded request.

        Raises:
            InvalidInputError: it cannot be encoded, so that nothing of it was sent.
        """
        task = self._ahead.pop((index, encoding, seq_id), None)
        return await (task or self._encode(index, encoding, seq_id))

    def discard(self) -> None:
        """Drops the requests that were encoded ahead and not used."""
        for task in self._ahead.values():
            task.cancel()
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._ahead.clear()

    async def _encode(
        self, index: int, encoding: Encoding, seq_id: int
    ) -> Request[UntypedAPIFuture]:
        try:
            return await in_thread(self._bodies[index][encoding], seq_id)
        except TinkexError:
            raise
        except Exception as error:  # an argument of a type that no check has refused
            raise InvalidInputError(
                f"an argument cannot be encoded: {type(error).__name__}: {error}",
                advice="Nothing was sent. Check the types of the arguments.",
            ) from error

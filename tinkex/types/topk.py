"""`TopkLogprobs`: the likeliest tokens at each position, as two arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from tinkex.types.as_dataclass import as_dataclass

EMPTY_LOGPROB = -99999.0
"""The logprob of an empty cell; its token is 0."""

TopkRows: TypeAlias = "Sequence[Sequence[tuple[int, float]] | None]"
"""The `(token, logprob)` pairs of each position, likeliest first; None where there are none."""


@as_dataclass
@frozen(eq=False)
class TopkLogprobs:
    """The K likeliest tokens at each of N positions, likeliest first.

    An empty cell has token 0 and logprob -99999.

    Example:
        response = sampler.sample([1, 2, 3], 1, {"max_tokens": 8}, topk_sample_logprobs=5).result()
        topk = response.sequences[0].topk_logprobs_np
        likeliest = topk.token_ids[:, 0]  # int64 (M,), for M sampled tokens
        for token, logprob in topk.to_rows()[0]:
            print(token, logprob)
    """

    token_ids: NDArray[np.int64]
    """The token ids, int64 `(N, K)`."""
    logprobs: NDArray[np.float32]
    """The logprobs, float32 `(N, K)`."""

    def to_rows(self) -> list[list[tuple[int, float]] | None]:
        """Returns the pairs of each position, without the empty cells at the end of a row; None for
        a row whose first cell is empty.
        """
        rows = zip(
            self.token_ids.tolist(), self.logprobs.tolist(), self._row_lengths(), strict=True
        )
        return [
            list(zip(ids[:count], values[:count], strict=True)) if count else None
            for ids, values, count in rows
        ]

    def _row_lengths(self) -> list[int]:
        """Returns the number of cells up to the last filled one of each row; 0 if the first cell is
        empty.
        """
        if not self.token_ids.size:
            return [0] * len(self.token_ids)
        filled = (self.token_ids != 0) | (self.logprobs != EMPTY_LOGPROB)
        lengths = filled.shape[1] - np.argmax(filled[:, ::-1], axis=1)
        return np.where(filled[:, 0], lengths, 0).tolist()

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[Sequence[float]] | None]) -> TopkLogprobs:
        """Makes one from rows of pairs, which may differ in length or be None."""
        lengths = np.array([len(row or ()) for row in rows], np.int64)
        token_ids = np.zeros((len(rows), int(lengths.max(initial=1))), np.int64)
        logprobs = np.full(token_ids.shape, EMPTY_LOGPROB, np.float32)
        filled = np.arange(token_ids.shape[1]) < lengths[:, None]
        pairs = [pair for row in rows for pair in row or ()]
        token_ids[filled] = [int(token) for token, _ in pairs]
        logprobs[filled] = [logprob for _, logprob in pairs]
        return cls(token_ids, logprobs)

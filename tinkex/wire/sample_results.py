"""Fills in the parts of a sample's result that servers may leave out, for both encodings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tinkex_api.models import UntypedAPIFuture

from tinkex.types import TopkLogprobs
from tinkex.types.topk import EMPTY_LOGPROB


def sequence_ids(promise: UntypedAPIFuture, count: int) -> list[str]:
    """Returns an id for each sequence: the promise's, or `<request id>:<index>` without one."""
    given = (promise.sample_sequence_ids or [])[:count]
    return [*given, *(f"{promise.request_id}:{index}" for index in range(len(given), count))]


def logprobs_from_first_token(
    logprobs: NDArray[np.float32] | None, prompt_length: int | None
) -> NDArray[np.float32] | None:
    """Returns the logprobs with NaN for the prompt's first token, if the server has left that out.

    The first token has no logprob, since nothing precedes it.
    """
    if logprobs is None or len(logprobs) + 1 != prompt_length:
        return logprobs
    return np.concatenate([np.full(1, np.nan, np.float32), logprobs])


def topk_from_first_token(
    table: TopkLogprobs | None, prompt_length: int | None
) -> TopkLogprobs | None:
    """Returns the table with an empty row for the prompt's first token, if that was left out."""
    if table is None or len(table.token_ids) + 1 != prompt_length:
        return table
    row = (1, table.token_ids.shape[1])
    return TopkLogprobs(
        np.concatenate([np.zeros(row, np.int64), table.token_ids]),
        np.concatenate([np.full(row, EMPTY_LOGPROB, np.float32), table.logprobs]),
    )

"""A batch is split in order, within the limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinkex.config import SEED_CHUNK_LIMITS, ChunkLimits
from tinkex.training.chunking import size, split
from tinkex.types import Datum


@pytest.mark.rule(18)
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 8), st.integers(1, 600))
def test_chunks_keep_order_and_limits(lengths: list[int], max_items: int, max_size: int) -> None:
    data = [
        Datum(list(range(length)), {"target_tokens": list(range(length))}) for length in lengths
    ]
    limits = ChunkLimits(max_items=max_items, max_size=max_size)
    chunks = split(data, limits)
    assert [datum for chunk in chunks for datum in chunk] == data
    for chunk in chunks:
        assert 1 <= len(chunk) <= max_items
        assert len(chunk) == 1 or sum(size(datum, limits) for datum in chunk) <= max_size


def test_the_seeds_limits_count_tokens() -> None:
    assert [len(chunk) for chunk in split([Datum([1, 2])] * 300, SEED_CHUNK_LIMITS)] == [
        128,
        128,
        44,
    ]

"""Public names that were changed go on working for one release."""

from __future__ import annotations

import pytest

import tinkex


def test_sampling_ways_is_sampling_rules_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="tinkex.SamplingWays is now tinkex.SamplingRules"):
        assert tinkex.SamplingWays is tinkex.SamplingRules
    assert "SamplingWays" not in dir(tinkex)

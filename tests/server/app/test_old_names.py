"""Names that a release before had work, and warn."""

from __future__ import annotations

import attrs
import pytest

from tinkex.local import Limits


def test_told_is_an_old_name_of_top_tokens_per_result() -> None:
    with pytest.warns(DeprecationWarning, match="top_tokens_per_result") as caught:
        limits = Limits(told=7, rank=3)
    assert caught[0].filename == __file__
    assert limits == Limits(top_tokens_per_result=7, rank=3)
    assert attrs.evolve(limits, rank=4).top_tokens_per_result == 7
    with pytest.warns(DeprecationWarning, match="top_tokens_per_result"):
        assert limits.told == 7


def test_an_unknown_limit_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown"):
        Limits(unknown=1)

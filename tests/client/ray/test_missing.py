"""The errors where Ray is not installed."""

from __future__ import annotations

import sys
from typing import Any, cast

import pytest

import tinkex.ray
from tinkex import SamplingClient

NO_SAMPLER = cast("SamplingClient", None)  # it fails before


@pytest.mark.parametrize(
    "use",
    [
        lambda: tinkex.ray.sample_dataset(None, NO_SAMPLER),
        lambda: tinkex.ray.rollouts(NO_SAMPLER, []),
    ],
)
def test_the_extra_is_named(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"needs ray.*pip install 'tinkex\[ray\]'"):
        use()

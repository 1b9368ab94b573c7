"""The text of the contract. An installed package has a copy beside this module; a checkout has the
original in `openapi/`.
"""

from __future__ import annotations

from pathlib import Path

_NAME = "tinker.yaml"
_PLACES = (Path(__file__).with_name(_NAME), Path(__file__).parents[2] / "openapi" / _NAME)


def contract_text() -> str:
    return next(place for place in _PLACES if place.is_file()).read_text(encoding="utf-8")

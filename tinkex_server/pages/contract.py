"""The contract's text: in an installed package a copy beside this module, in a checkout the file
that it is copied from.
"""

from __future__ import annotations

from pathlib import Path

_NAME = "tinker.yaml"
_PLACES = (Path(__file__).with_name(_NAME), Path(__file__).parents[2] / "openapi" / _NAME)


def contract_text() -> str:
    return next(place for place in _PLACES if place.is_file()).read_text(encoding="utf-8")

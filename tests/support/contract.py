"""The contract as it is written in openapi/tinker.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

CONTRACT: dict[str, Any] = YAML(typ="safe").load(
    (Path(__file__).parents[2] / "openapi" / "tinker.yaml").read_text()
)
SCHEMAS: dict[str, Any] = CONTRACT["components"]["schemas"]

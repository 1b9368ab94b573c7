"""The contract as it is written in openapi/tinker.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# by libyaml: Python's own parser takes seconds, and each process that collects tests reads it
CONTRACT: dict[str, Any] = yaml.load(
    (Path(__file__).parents[2] / "openapi" / "tinker.yaml").read_text(), yaml.CSafeLoader
)
SCHEMAS: dict[str, Any] = CONTRACT["components"]["schemas"]

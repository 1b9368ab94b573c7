"""The library Ray. It has no complete types, and is imported when it is first needed."""

from __future__ import annotations

import importlib
import os
from typing import Any


def import_ray(module: str = "ray") -> Any:
    """Returns Ray, or a module that comes with it. Raises `ImportError`, with what to install, if
    it is missing.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"tinkex.ray needs {module}, which is not installed: pip install 'tinkex[ray]'"
        ) from error

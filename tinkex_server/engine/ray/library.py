"""The library Ray, as this package uses it. It has no complete types, and need not be installed
where types are checked.
"""

from __future__ import annotations

import importlib
from typing import Any

ray: Any = importlib.import_module("ray")

_errors: Any = importlib.import_module("ray.exceptions")
RayError: type[Exception] = _errors.RayError
ActorUnavailableError: type[Exception] = _errors.ActorUnavailableError

"""The packages that the embedded server needs beside the client's dependencies."""

from __future__ import annotations

import importlib.util


def require(*modules: str) -> None:
    """Raises `ImportError` if some modules are not installed, and says how to install them."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(
            f"the embedded server needs {', '.join(missing)}: run `pip install torch`, in the "
            "build that fits this machine, then `pip install 'tinkex[local]'`"
        )

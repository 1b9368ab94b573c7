"""The embedded server: the Tinker API on this machine, which really trains and samples.

    with tinkex.local.serve() as server:
        print(server.base_url)

The server is the package `tinkex_server`. This module imports it when one of its names is used.
The names need the extra `local`; `serve` also needs torch, except with another engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinkex_server.app.faults import Faults
    from tinkex_server.app.gc import gc
    from tinkex_server.app.serve import serve
    from tinkex_server.app.server import Server
    from tinkex_server.engine.ray.settings import RaySettings
    from tinkex_server.engine.vllm.settings import VllmSettings
    from tinkex_server.limits import Limits

__all__ = ["Faults", "Limits", "RaySettings", "Server", "VllmSettings", "gc", "serve"]

_MODULES = {
    "Faults": "app.faults",
    "Limits": "limits",
    "RaySettings": "engine.ray.settings",
    "Server": "app.server",
    "VllmSettings": "engine.vllm.settings",
    "gc": "app.gc",
    "serve": "app.serve",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tinkex_server.optional_dependencies import require

    require("starlette", "uvicorn", "jinja2", "markdown_it", "yaml")
    return getattr(importlib.import_module(f"tinkex_server.{_MODULES[name]}"), name)

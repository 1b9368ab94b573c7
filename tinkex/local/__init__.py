"""The embedded server: the Tinker API on this machine, really training and sampling. Extra `local`.

    with tinkex.local.serve() as server:
        print(server.base_url)

Importing this module needs and imports nothing but Python; `serve` needs the extra, and torch unless another engine is asked for.

A request's way through the folders: `wire` reads it, `guard` says who may do what, a handler of `routes` takes it on, `work` has it wait for
its turn and keeps its outcome, `engine` trains or samples, and `store` remembers. `profiles` stands before all that and does it as other
servers do; `pages` shows it to people.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinkex.local.collection import gc
    from tinkex.local.faults import Faults
    from tinkex.local.limits import Limits
    from tinkex.local.server import Server
    from tinkex.local.start import serve

__all__ = ["Faults", "Limits", "Server", "gc", "serve"]

_MODULES = {"Faults": "faults", "Limits": "limits", "Server": "server", "gc": "collection", "serve": "start"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tinkex.local.extras import require

    require("starlette", "uvicorn", "jinja2", "markdown_it", "yaml")
    return getattr(importlib.import_module(f"tinkex.local.{_MODULES[name]}"), name)

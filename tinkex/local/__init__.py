"""The embedded server: the Tinker API on this machine, really training and sampling. Extra `local`.

    with tinkex.local.serve() as server:
        print(server.base_url)

Importing this module needs and imports nothing but Python; `serve` needs torch and the extra.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinkex.local.server import Server, serve

__all__ = ["Server", "serve"]

_EXTRAS = ("starlette", "uvicorn", "jinja2", "markdown_it", "yaml", "torch", "transformers", "peft", "safetensors")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_server_module(), name)


def _server_module() -> Any:
    missing = [extra for extra in _EXTRAS if importlib.util.find_spec(extra) is None]
    if missing:
        raise ImportError(
            f"the embedded server needs {', '.join(missing)}: run `pip install torch`, in the build that fits this machine, "
            "then `pip install 'tinkex[local]'`"
        )
    return importlib.import_module("tinkex.local.server")

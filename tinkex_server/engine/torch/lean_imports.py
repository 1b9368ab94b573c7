"""Keeps out of the engine process what torch and transformers import and an engine never uses.

It would take a third of the time until an engine is ready: above all the compiler of torch, and
tensors that are spread over processes. `import_lean` is called only in the process of an engine,
before it imports transformers. Whatever does need the compiler there gets it.
"""

# torch and transformers type some of their functions only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateImportUsage=false

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_COMPILER = "torch._dynamo"
_MASKS = f"{_COMPILER}._trace_wrapped_higher_order_op"


def import_lean() -> None:
    """Prepares the process: transformers will be imported without what an engine never uses."""
    if _COMPILER not in sys.modules:
        sys.modules[_COMPILER] = _DeferredCompiler(_COMPILER)
        sys.modules[_MASKS] = _DeferredMasks(_MASKS)
    _use_one_device()
    _scan_models_once()


class _DeferredCompiler(ModuleType):
    """A module in place of torch's compiler until something of it is used.

    torch and transformers mark functions that the compiler must treat in some way. An engine calls
    these functions as they are, and needs no compiler for that.
    """

    def __getattr__(self, name: str) -> Any:
        # `inspect` asks all modules for their files, and the import system for what is in a package
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        return _WITHOUT_COMPILER.get(name) or getattr(_compiler(), name)


class _DeferredMasks(ModuleType):
    """A module in place of the part of the compiler that transformers imports for its masks."""

    def __getattr__(self, name: str) -> Any:
        if name == "TransformGetItemToIndex":  # a class, which is made when a mask needs it
            return lambda: getattr(_real_masks(), name)()
        if name.startswith("__"):  # the import system asks any module for these
            raise AttributeError(name)
        return getattr(_real_masks(), name)


def _compiler() -> ModuleType:
    """Imports the compiler itself, which takes its place from now on."""
    for name, kind in ((_COMPILER, _DeferredCompiler), (_MASKS, _DeferredMasks)):
        if isinstance(sys.modules.get(name), kind):
            del sys.modules[name]
    compiler = importlib.import_module(_COMPILER)
    torch._dynamo = compiler  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    return compiler


def _real_masks() -> ModuleType:
    _compiler()
    return importlib.import_module(_MASKS)


def _unchanged(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """Returns the function, or without one the decorator that does."""
    return _unchanged if function is None else function


_WITHOUT_COMPILER: dict[str, Callable[..., Any]] = {
    "allow_in_graph": _unchanged,
    "assume_constant_result": _unchanged,
    "disable": _unchanged,
    "graph_break": lambda *_, **__: None,
}
"""The replacements of the compiler's functions while nothing is compiled."""


def _use_one_device() -> None:
    """Makes transformers take this torch for one that cannot spread a model over processes."""
    from transformers import utils
    from transformers.utils import import_utils

    utils.is_torch_distributed_available = lambda: False
    import_utils.is_torch_distributed_available = lambda: False


def _scan_models_once() -> None:
    """Makes transformers read the files of its models, some thousand, only once.

    It has read them, by the path of their folder, to learn what classes there are. It would read
    them again by the path of a file in it, since it keeps what it read by what it was asked.
    """
    from transformers.utils import import_utils

    name = "create_import_structure_from_path"
    scan: Callable[[Path], Any] | None = getattr(import_utils, name, None)
    if scan is None:  # another release
        return

    def scan_folder(path: str | Path) -> Any:
        return scan(Path(path).parent if Path(path).is_file() else Path(path))

    setattr(import_utils, name, scan_folder)

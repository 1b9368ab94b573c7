"""Functions of a user's own, named on the command line or in a settings file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tinkex import InvalidInputError


def load_function(name: str) -> Callable[..., Any]:
    """Returns the function `module:function`, or `file.py:function`.

    Modules are looked for in the working folder, too.

    Raises:
        InvalidInputError: there is no such module or function, or importing it fails.
    """
    module_name, _, function_name = name.rpartition(":")
    if not module_name:
        raise InvalidInputError(
            f"{name!r} does not name a function",
            advice="Give module:function or file.py:function, for example rewards:correct.",
        )
    function: Any = getattr(_module(module_name), function_name, None)
    if not callable(function):
        raise InvalidInputError(f"{module_name} has no function {function_name!r}")
    return function


def _module(name: str) -> ModuleType:
    try:
        if name.endswith(".py"):
            return _from_file(name)
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(name)
    except Exception as error:
        raise InvalidInputError(
            f"{name} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _from_file(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None  # since the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

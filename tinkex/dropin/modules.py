"""The modules of the drop-in, which resolve their names by the table when they are first used."""

from __future__ import annotations

from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from tinkex.dropin.missing import explanation
from tinkex.dropin.table import MODULES, PACKAGE, exported


class DropInModule(ModuleType):
    """A module named like one of the official SDK, made of tinkex's own names."""

    def __getattr__(self, name: str) -> Any:
        whole = f"{self.__name__}.{name}"
        if source := MODULES[self.__name__].get(name):
            home, _, own = source.partition(":")
            value = getattr(import_module(home), own)
            setattr(self, name, value)
            return value
        if whole in MODULES:
            return import_module(whole)
        if name == "__all__":
            return exported(self.__name__)
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        raise AttributeError(explanation(whole), name=name, obj=self)

    def __dir__(self) -> list[str]:
        inside = {
            name.rpartition(".")[2] for name in MODULES if name.rpartition(".")[0] == self.__name__
        }
        return sorted({*super().__dir__(), *MODULES[self.__name__], *inside})


class DropInLoader(Loader):
    """The loader of these modules. Nothing runs when one is imported."""

    def create_module(self, spec: ModuleSpec) -> DropInModule:
        """Returns the module of a name."""
        return DropInModule(spec.name, f"{spec.name} of the official SDK, made of tinkex's names.")

    def exec_module(self, module: ModuleType) -> None:
        """Tells the package which file stands in for it. Names are resolved when they are used."""
        if module.__name__ == PACKAGE:
            module.__file__ = str(Path(__file__).parent / "path" / PACKAGE / "__init__.py")

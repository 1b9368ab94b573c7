"""The finder that answers imports of `tinker` and of its modules, before any other does."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from tinkex.dropin.missing import explanation
from tinkex.dropin.modules import DropInLoader
from tinkex.dropin.table import MODULES, PACKAGE


class DropInFinder(MetaPathFinder):
    """The finder of the drop-in's modules."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Returns the module of that name; None for what does not belong to the official SDK.

        Raises:
            ModuleNotFoundError: the drop-in has no such module or name.
        """
        if fullname != PACKAGE and not fullname.startswith(f"{PACKAGE}."):
            return None
        if fullname not in MODULES:
            # `from tinker import X` asks for the module tinker.X when there is no name X. With a
            # name in this error the import statement would replace it by one of its own, without
            # the advice.
            raise ModuleNotFoundError(explanation(fullname))
        return ModuleSpec(fullname, DropInLoader(), origin="tinkex.dropin", is_package=True)

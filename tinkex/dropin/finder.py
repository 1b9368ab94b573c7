"""The finder that answers imports of `tinker` and of its modules, before any other does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from email.message import Message
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from os import PathLike
from types import ModuleType

from tinkex.dropin.missing import explanation
from tinkex.dropin.modules import DropInLoader
from tinkex.dropin.table import MODULES, RELEASE

PACKAGE = "tinker"


class DropInFinder(DistributionFinder):
    """The finder of the drop-in's modules, and of what `importlib.metadata` says of the package."""

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
        spec = ModuleSpec(fullname, DropInLoader(), origin="tinkex.dropin", is_package=True)
        return spec

    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterable[Distribution]:
        """Yields the metadata of the package, for programs that ask for its version."""
        if context is None or context.name is None or context.name == PACKAGE:
            yield DropInDistribution()


class DropInDistribution(Distribution):
    """The metadata of `tinker`: the version whose names the drop-in has."""

    def read_text(self, filename: str) -> str | None:
        """Returns the text of METADATA; None for every other file."""
        if filename != "METADATA":
            return None
        message = Message()
        message["Metadata-Version"] = "2.1"
        message["Name"] = PACKAGE
        message["Version"] = RELEASE
        message["Summary"] = "The official SDK's names, made of tinkex (tinkex.dropin)"
        return message.as_string()

    def locate_file(self, path: str | PathLike[str]) -> PathLike[str]:
        """Raises `FileNotFoundError`: the drop-in has no files of its own."""
        raise FileNotFoundError(f"{PACKAGE} is tinkex.dropin, which has no file {path}")

"""Compares the names of the official SDK with those of the drop-in: run by scripts/test_clients.py
beside the official SDK.

Fails for a public name, a module of a public name or a parameter of a client's method that the
drop-in lacks without saying what to use in its place.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
import warnings
from pathlib import Path

import side_by_side
import tinker
import tinker.types

from tinkex.dropin import clients
from tinkex.dropin.missing import ADVICE
from tinkex.dropin.modules import DropInModule
from tinkex.dropin.table import MODULES, RELEASE

warnings.simplefilter("ignore")  # the deprecations of the official SDK
PACKAGE = Path(tinker.__file__).parent
INSIDE = ("tinker.types._pydantic_types", "tinker.types._tensor_container", "tinker.types._torch")
"""Modules that only the official SDK's own modules import."""
DIFFERENT = ("holder", "create", "on_queue_state_change")
"""Members that docs/parity.md describes: an internal object, what takes that object, and a method
that is an attribute here.
"""


def public_names():
    """Yields each public name of the package and of its types, with its module."""
    for name in tinker.__all__:
        yield "tinker", name
    for name, value in vars(tinker.types).items():
        if not name.startswith("_") and name != "annotations" and not inspect.ismodule(value):
            yield "tinker.types", name
    for module in ("tinker.lib.public_interfaces", "tinker.auth", "tinker.lib.retry_handler"):
        found = importlib.import_module(module)
        for name, value in vars(found).items():
            own = getattr(value, "__module__", "") == module
            if (own or name in getattr(found, "__all__", ())) and not (
                name.startswith("_") or isinstance(value, typing.TypeVar)
            ):
                yield module, name


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if not name.endswith("_test") and not name.startswith(INSIDE):
            yield name


def explained(name):
    parts = name.split(".")
    return any(".".join(parts[:length]) in ADVICE for length in range(2, len(parts) + 1))


def lacking_names():
    for module, name in public_names():
        if name not in MODULES[module] and f"{module}.{name}" not in {*MODULES, *ADVICE}:
            yield f"{module}.{name} is neither in the drop-in nor explained"
    for name in modules():
        if name not in MODULES and not explained(name):
            yield f"the module {name} is neither in the drop-in nor explained"


def names_that_are_not_there():
    """Yields the names of the drop-in that the official SDK does not have."""
    for module, names in MODULES.items():
        there = importlib.import_module(module)
        for name in names:
            if not hasattr(there, name):
                yield f"{module}.{name} is in the drop-in and not in the official SDK"


def lacking_members():
    """Yields members of clients, and their parameters, that the drop-in's classes lack."""
    for kind in side_by_side.CLIENTS:
        here = getattr(DropInModule("tinker"), kind.__name__)
        if kind is tinker.ServiceClient:
            for line in side_by_side.of_call(kind.__init__, here.__init__):
                yield f"ServiceClient: {line}"
        for name, member in vars(kind).items():
            if not side_by_side.is_member(name, member) or name in DIFFERENT:
                continue
            if not hasattr(here, name):
                yield f"{kind.__name__}.{name} is not in the drop-in"
            elif inspect.isfunction(member) and not name.endswith("_async"):
                theirs = side_by_side.parameters(member)
                ours = list(side_by_side.parameters(getattr(here, name)))
                positional = [n for n, p in theirs.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
                if positional != ours[: len(positional)] or not {*theirs} <= {*ours}:
                    yield f"{kind.__name__}.{name} takes {list(theirs)}, the drop-in's {ours}"


def main():
    assert tinker.__version__ == RELEASE, (tinker.__version__, RELEASE)
    assert clients.ServiceClient is not tinker.ServiceClient
    wrong = [*lacking_names(), *names_that_are_not_there(), *lacking_members()]
    count = len(list(public_names()))
    absent = sorted(
        f"{module}.{name}" for module, name in public_names() if f"{module}.{name}" in ADVICE
    )
    print(*wrong, sep="\n")
    print(
        f"{count} public names of the official SDK, {count - len(absent)} of them in the drop-in, "
        f"{len(absent)} explained: {', '.join(absent)}; {len(wrong)} problems"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

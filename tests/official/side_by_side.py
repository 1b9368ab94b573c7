"""The official SDK and tinkex, name by name: what differs that a program could meet.

Run by scripts/test_clients.py beside the official SDK. It compares with what docs/parity.md states,
and fails for each name that has no row, for each difference that is not stated with a reason, and
for each that is stated and is none. `--write` fills the column.

What is more here (parameters with defaults, members, kinds of values that are taken) is no
difference: no program of theirs meets it.
"""

from __future__ import annotations

import builtins
import collections.abc
import dataclasses
import datetime
import enum
import importlib
import inspect
import re
import sys
import types
import typing
import warnings
from functools import cached_property
from pathlib import Path

import httpx
import numpy as np
import numpy.typing
import tinker
import tinker.types
from pydantic import BaseModel
from tinkex_api import models

import tinkex

warnings.simplefilter("ignore")  # the deprecations of the official SDK
PARITY = Path(__file__).resolve().parents[2] / "docs" / "parity.md"
SAME, NOT_COMPARED = "same", "–"
OWNERS = {
    "package": [tinker],
    "ServiceClient": [tinker.ServiceClient],
    "APIFuture": [tinker.APIFuture],
    "TrainingClient": [tinker.TrainingClient],
    "SamplingClient": [tinker.SamplingClient],
    "RestClient and AdminClient": [tinker.RestClient, tinker],
    "types": [tinker.types],
    "errors": [tinker],
}
"""The objects that hold the names of each section."""
CLIENTS = (
    tinker.ServiceClient,
    tinker.TrainingClient,
    tinker.SamplingClient,
    tinker.RestClient,
    tinker.AdminClient,
    tinker.APIFuture,
)
IDIOMS = {
    BaseModel: (
        "model_dump",
        "model_dump_json",
        "model_copy",
        "model_validate",
        "model_validate_json",
    ),
    object: (),
}
"""Members that come from a library's base class, and that programs use."""
SET_BY_THE_CONSTRUCTOR = ("message", "status_code")
INTERNAL = ("_", "serialize_", "validate_")
"""Prefixes of members that are not for programs, pydantic's among them."""


# ---- kinds of values, in words that both sides share ----

KINDS = (
    (bool, "bool"),
    (int, "int"),
    (float, "float"),
    (enum.Enum, "text"),
    (str, "text"),
    (bytes, "bytes"),
    (datetime.date, "time"),
    (np.ndarray, "array"),
    (collections.abc.Mapping, "mapping"),
    (collections.abc.Sequence, "list"),
)
FUTURES = ("APIFuture", "AsyncAPIFuture", "AwaitableConcurrentFuture")
CLIENT_FUTURE = re.compile(r"Backcompat(\w+)Future")
ANYTHING = frozenset({"anything"})


LIBRARIES = {
    "httpx": httpx,
    "np": np,
    "npt": numpy.typing,
    "types": tinker.types,
    "date": datetime.date,
    "datetime": datetime.datetime,
    "Mapping": collections.abc.Mapping,
}


class Names(dict):
    """Returns what the names in an annotation mean, with a class of that name for those that are
    imported for checkers alone.
    """

    def __init__(self, module, package):
        super().__init__()
        self.places = [
            module,
            builtins,
            types.SimpleNamespace(**LIBRARIES),
            package,
            *([tinker.types] if package is tinker else []),
            models,
            typing,
        ]

    def __missing__(self, name):
        found = next((getattr(place, name) for place in self.places if hasattr(place, name)), None)
        if isinstance(found, str):  # an alias that names what is imported for checkers alone
            return eval(found, {}, self)
        if found is None:
            return (
                types.SimpleNamespace(Tensor=type("Tensor", (), {}))
                if name == "torch"
                else type(name, (), {})
            )
        return found


def hints_of(thing):
    """Returns the evaluated annotations by name."""
    own = thing if isinstance(thing, type) else inspect.unwrap(thing)
    module = sys.modules.get(own.__module__) or tinkex
    package = tinkex if module.__name__.startswith("tinkex") else tinker
    if package is tinkex:
        importlib.import_module("tinkex.types")
    found = {}
    for part in reversed(own.__mro__) if isinstance(own, type) else [own]:
        names = Names(
            sys.modules.get(part.__module__, module), package if package is tinker else tinkex.types
        )
        for name, hint in vars(part).get("__annotations__", {}).items():
            found[name] = eval(hint, {}, names) if isinstance(hint, str) else hint
    return found


def words(hint):
    """Returns the kinds of values that an annotation allows."""
    if isinstance(hint, (str, typing.ForwardRef)):
        hint = Names(tinkex, tinker)[getattr(hint, "__forward_arg__", hint)]
    if (
        hint is inspect.Parameter.empty
        or hint is typing.Any
        or hint is None
        or isinstance(hint, typing.TypeVar)
    ):
        return frozenset({"None"}) if hint is None else ANYTHING
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return words(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return frozenset().union(*map(words, arguments))
    if origin is typing.Literal:
        return frozenset().union(*(words(type(value)) for value in arguments))
    kind = origin or hint
    if kind is collections.abc.Callable:
        return frozenset({"function"})
    if not isinstance(kind, type):
        return frozenset({str(kind)})
    if kind is type(None):
        return frozenset({"None"})
    if kind.__name__ in FUTURES and arguments:
        return frozenset({f"future of {said(words(arguments[0]))}"})
    if made := CLIENT_FUTURE.fullmatch(kind.__name__):
        return frozenset({f"future of {made[1]}"})
    return frozenset(
        {next((word for base, word in KINDS if issubclass(kind, base)), kind.__name__)}
    )


def said(kinds):
    return " or ".join(sorted(kinds, key=lambda kind: (kind == "None", kind)))


def as_given(there, hint):
    """Returns the kinds that our call gives; a value that is the future of itself is a future where
    the official SDK gives one.
    """
    here = words(hint)
    wanted = next((kind for kind in there if kind.startswith("future of ")), None)
    if (
        wanted
        and isinstance(hint, type)
        and hasattr(hint, "result")
        and hint.__name__ not in FUTURES
    ):
        return frozenset({f"future of {'None' if hint.__name__ == 'Done' else said(here)}"})
    return here


# ---- what differs ----


def of_call(there, here):
    """Parameters, and what is given."""
    ours, theirs = parameters(here), parameters(there)
    hints, their_hints = hints_or_none(here), hints_or_none(there)
    for place, (name, parameter) in enumerate(theirs.items()):
        if name not in ours:
            yield f"lacks `{name}`"
            continue
        own = ours[name]
        if parameter.kind == parameter.POSITIONAL_OR_KEYWORD:
            if own.kind == own.KEYWORD_ONLY:
                yield f"`{name}` is keyword-only"
            elif list(ours).index(name) != place:
                yield f"`{name}` in another place"
        if parameter.default is not parameter.empty:
            if own.default is own.empty:
                yield f"`{name}` is required"
            elif plain(own.default) != plain(parameter.default):
                yield f"`{name}` is {own.default!r} by default, there {parameter.default!r}"
        taken, wanted = words(hints.get(name, typing.Any)), words(their_hints.get(name, typing.Any))
        if not (taken >= ANYTHING or wanted >= ANYTHING) and (
            refused := wanted - taken - {"None"} - tolerated(taken)
        ):
            yield f"`{name}` takes no {said(refused)}"
    for name, own in ours.items():
        if name not in theirs and own.default is own.empty:
            yield f"requires `{name}`"
    given = words(their_hints.get("return", typing.Any))
    own = as_given(given, hints.get("return", typing.Any))
    if (
        not isinstance(there, type)
        and not own >= ANYTHING
        and not given >= ANYTHING
        and not own <= given
    ):
        yield f"gives {said(own)}, there {said(given)}"


def hints_or_none(thing):
    return hints_of(
        thing.__init__ if isinstance(thing, type) and "__init__" in vars(thing) else thing
    )


def tolerated(taken):
    """Returns the other kinds that are accepted: an int where a float is."""
    return {"int"} if "float" in taken else set()


def plain(default):
    """Returns a default of a simple type; None stands for any other."""
    simple = default is None or isinstance(default, (bool, int, float, str))
    return default if simple else None


def parameters(thing):
    try:
        found = inspect.signature(thing).parameters
    except ValueError:  # of a class without a constructor of its own
        return {}
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {
        name: p
        for name, p in found.items()
        if name != "self" and not name.startswith("_") and p.kind not in variable
    }


def of_class(there, here):
    """Bases of errors, the constructor, fields, and members."""
    if issubclass(there, BaseException):
        bases = {base.__name__ for base in here.__mro__} | (
            {"TinkerError"} if issubclass(here, tinkex.TinkexError) else set()
        )
        lacking = [
            base.__name__
            for base in there.__mro__
            if base is not object and base.__name__ not in {*bases, there.__name__}
        ]
        yield from (f"is not a {base}" for base in lacking)
        yield from of_call(there, here)
        yield from (
            f"lacks `{name}`"
            for name in fields(there)
            if not hasattr(here, name) and name not in SET_BY_THE_CONSTRUCTOR
        )
        return
    if there not in CLIENTS or there in (tinker.ServiceClient,):
        yield from of_call(there, here)
    if there in CLIENTS:
        return  # their members have rows
    if dataclasses.is_dataclass(there) and not dataclasses.is_dataclass(here):
        yield "is not a dataclass"
    if there.__hash__ is not None and here.__hash__ is None:
        yield "is not hashable"
    base = BaseModel if issubclass(there, BaseModel) else object
    members = {
        *fields(there),
        *(name for name, value in vars(there).items() if is_member(name, value)),
        *IDIOMS[base],
    }
    own, theirs = fields(here), fields(there)
    for name in sorted(members):
        if name not in own and not hasattr(here, name):
            yield f"lacks `{name}`"
        elif name in theirs and name in own:
            given, wanted = words(own[name]), words(theirs[name])
            if not (given >= ANYTHING or wanted >= ANYTHING) and (new := given - wanted):
                yield f"`{name}` may be {said(new)}"
        elif inspect.isfunction(vars(there).get(name)):
            yield from (
                f"`{name}`: {text}"
                for text in of_call(vars(there)[name], vars(here).get(name) or getattr(here, name))
            )


def is_member(name, value):
    return not name.startswith(INTERNAL) and (
        inspect.isfunction(value)
        or isinstance(value, (property, cached_property, classmethod, staticmethod))
    )


def fields(kind):
    """Returns the kinds of a value's attributes by name."""
    found = {
        name: hint
        for name, hint in hints_of(kind).items()
        if not name.startswith("_") and name != "model_config"
    }
    if issubclass(kind, BaseModel):
        found = {name: field.annotation for name, field in kind.model_fields.items()}
    for part in reversed(kind.__mro__):
        for name, value in vars(part).items():
            getter = (
                value.fget
                if isinstance(value, property)
                else value.func
                if isinstance(value, cached_property)
                else None
            )
            if (
                getter is not None
                and not name.startswith("_")
                and part.__module__.startswith(("tinker", "tinkex"))
            ):
                found[name] = hints_of(getter).get("return", typing.Any)
    return found


def differences(there, here):
    if isinstance(there, type) and isinstance(here, type) and not issubclass(there, enum.Enum):
        return list(dict.fromkeys(of_class(there, here)))
    if (
        callable(there)
        and callable(here)
        and not isinstance(there, type)
        and hasattr(there, "__code__")
    ):
        return list(dict.fromkeys(of_call(there, here)))
    if typing.get_origin(there) is not None and typing.get_origin(here) is not None:
        new = words(here) - words(there)
        return [f"may be {said(new)}"] if new and not words(here) >= ANYTHING else []
    return None


# ---- the document ----


def found(path, places):
    """Returns what a dotted name leads to in one of the places, and None where there is none."""
    for place in places:
        here = place
        for part in path.split("."):
            here = getattr(here, part, None)
        if here is not None:
            return here
    return None


def ours_at(path):
    here, walked = tinkex, "tinkex"
    for part in path.split(".")[1:]:
        walked = f"{walked}.{part}"
        here = getattr(here, part) if hasattr(here, part) else importlib.import_module(walked)
    return here


def cell(names, ours, section):
    """Returns what the column says of a row."""
    pairs = (
        list(zip(names, ours if len(ours) == len(names) else ours[:1] * len(names), strict=True))
        if ours
        else []
    )
    texts = []
    for name, path in pairs:
        there = found(name, OWNERS[section])
        texts.append(None if there is None else differences(there, ours_at(path)))
    if all(text is None for text in texts):
        return NOT_COMPARED
    lines = [
        f"{name}: {line}" if len(pairs) > 1 else line
        for (name, _), text in zip(pairs, texts, strict=True)
        for line in text or ()
    ]
    return "; ".join(dict.fromkeys(lines)) or SAME


def public_names():
    """Yields every name of the official SDK that a program may use, and the sections that may
    list it.
    """
    yield from (
        (name, ("package", "types", "errors"))
        for name in [*tinker.__all__, *(n for n in dir(tinker.types) if n[0].isupper())]
    )
    for client in CLIENTS:
        section = next(
            (name for name, owners in OWNERS.items() if client in owners),
            "RestClient and AdminClient",
        )
        for name, value in vars(client).items():
            if is_member(name, value) and not name.endswith("_async"):
                yield name, (section,)


def main(write):
    lines, section, problems, seen = PARITY.read_text().splitlines(), None, [], {}
    for number, line in enumerate(lines):
        if line.startswith("## "):
            section = (
                line.removeprefix("## Official SDK: ")
                if line.startswith("## Official SDK: ")
                else None
            )
        if section not in OWNERS or not line.startswith("| `"):
            continue
        cells = [text.strip() for text in line.strip().strip("|").split(" | ")]
        names, ours = (re.findall(r"`([^`]+)`", text) for text in cells[:2])
        seen.setdefault(section, set()).update(names)
        expected, stated, reason = (
            cell(names, ours, section),
            cells[3],
            cells[4] if len(cells) > 4 else "",
        )
        if write:
            cells[3] = expected
            lines[number] = f"| {' | '.join(cells)} |"
        elif stated != expected:
            problems.append(
                f"{section}, {cells[0]}: the document says {stated!r}, and it is {expected!r}"
            )
        if expected not in (SAME, NOT_COMPARED) and not reason:
            problems.append(f"{section}, {cells[0]}: no reason is given for {expected!r}")
    for name, sections in public_names():
        if not any(name == row.partition(".")[0] for one in sections for row in seen.get(one, ())):
            problems.append(f"{' or '.join(sections)}: no row for {name}")
    if write:
        PARITY.write_text("\n".join(lines) + "\n")
    print(*dict.fromkeys(problems), sep="\n")
    print(
        f"{sum(map(len, seen.values()))} names side by side, {len(problems)} of them not as "
        "docs/parity.md says"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv))

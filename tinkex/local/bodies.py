"""From the bytes of a JSON body to the generated type, every field checked against the contract's type.

The generated `from_dict` takes what comes, as a client must; a server has to say which field is wrong, so it reads by the
generated classes' own annotations. Unknown fields are kept, and a null counts as absent where the contract has no null.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs
import numpy as np
import orjson
from numpy.typing import NDArray
from tinkex_api import models

from tinkex.local.errors import Refused, malformed

T = TypeVar("T")
Location = tuple[str | int, ...]

_WORDS: dict[object, str] = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
_INT64 = range(-(2**63), 2**63)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Raises `Refused` unless `raw` is a JSON object."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refused(422, f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refused(422, "the body is not a JSON object")
    return cast("dict[str, Any]", value)


def fingerprint(fields: Mapping[str, Any]) -> str:
    """The same for a request that is sent again.

    An ephemeral save that is sent again takes a new sampling_session_seq_id, so that does not count.
    """
    counted = {name: value for name, value in fields.items() if name != "sampling_session_seq_id"}
    return _digest(orjson.dumps(counted, default=_digest, option=orjson.OPT_SORT_KEYS))


def _digest(value: bytes | NDArray[Any]) -> str:
    """Of an array, which has no place in JSON as it is."""
    return hashlib.blake2b(value if isinstance(value, bytes) else value.tobytes(), digest_size=16).hexdigest()


def read(kind: type[T], fields: Mapping[str, Any]) -> T:
    """Raises `Refused` (422), which names the field, when `fields` are not of this generated type."""
    return _read_class(kind, fields, ())


def _read(hint: Any, value: Any, at: Location) -> Any:
    if hint is Any:
        return value
    if get_origin(hint) in (Union, types.UnionType):
        return _read_union(get_args(hint), value, at)
    if get_origin(hint) is list:
        return _read_list(get_args(hint)[0], value, at)
    if attrs.has(hint):
        return _read_class(hint, value, at)
    return _read_plain(hint, value, at)


def _read_union(members: tuple[Any, ...], value: Any, at: Location) -> Any:
    """The contract's unions are of one kind of value with null or absence."""
    if value is None and type(None) in members:
        return None
    return _read(next(hint for hint in members if hint is not type(None)), value, at)


def _read_list(item: Any, value: Any, at: Location) -> list[Any]:
    if isinstance(value, np.ndarray) and item in (int, float):
        return cast("list[Any]", value)  # in place of a long one
    if not isinstance(value, list):
        raise malformed(*at, message="must be a list")
    items = cast("list[Any]", value)
    if item in (int, float):
        return items  # long ones, which are checked whole when they become arrays
    return [_read(item, entry, (*at, index)) for index, entry in enumerate(items)]


def _read_class(kind: type[T], value: Any, at: Location) -> T:
    if not isinstance(value, dict):
        raise malformed(*at, message="must be an object")
    rest = dict(cast("dict[str, Any]", value))
    known: dict[str, Any] = {}
    for name, key, hint, required in _fields(kind):
        entry, nullable = rest.pop(key, None), type(None) in get_args(hint)
        if entry is not None:
            known[name] = _read(hint, entry, (*at, key))
        elif required and not nullable:
            raise malformed(*at, key, message="is missing")
        elif required:
            known[name] = None
    instance = kind(**known)
    extra = _extra_hint(kind)
    cast("Any", instance).additional_properties = {key: _read(extra, entry, (*at, key)) for key, entry in rest.items()}
    return instance


def _read_plain(hint: Any, value: Any, at: Location) -> Any:
    fits = isinstance(value, (int, float)) if hint is float else isinstance(value, hint)
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise malformed(*at, message=f"must be {_WORDS[hint]}")
    if hint is int and value not in _INT64:
        raise malformed(*at, message="must fit in 64 bits")
    return value


@cache
def _generated() -> dict[str, Any]:
    """What the generated annotations name, and import for the type checker alone."""
    return {name: getattr(models, name) for name in models.__all__}


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, localns=_generated())


@cache
def _fields(kind: type[Any]) -> tuple[tuple[str, str, Any, bool], ...]:
    """Attribute, JSON key, type, and whether it is required. A keyword of Python has an underscore after it."""
    return tuple(
        (field.name, field.name.removesuffix("_"), _hints(kind)[field.name], field.default is attrs.NOTHING)
        for field in attrs.fields(kind)
        if field.init
    )


@cache
def _extra_hint(kind: type[Any]) -> Any:
    return get_args(_hints(kind)["additional_properties"])[1]

"""From the bytes of a JSON body to the generated type, every field checked against the contract's
type.

The generated `from_dict` takes what comes, as a client must; a server has to say which field is
wrong, so it reads by the generated classes' own annotations. Unknown fields are kept, and a null
counts as absent where the contract has no null; but not for a number with a fraction, of which it
may be the NaN or the infinity that JSON cannot write.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs
import numpy as np
import orjson
from attrs import frozen
from numpy.typing import NDArray
from tinkex_api import models

from tinkex_server.errors import Refused, malformed

T = TypeVar("T")
_Reader: TypeAlias = Callable[[Any], Any]
"""Gives what a value of a body is of the generated type. Raises `_Fault`."""

_WORDS: dict[object, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}
MOST_LISTS = 1 << 19  # objects and lists of one body: a batch of 8,192 datums with 64 each
_MOST_TEXTS = 1 << 20
_INT64 = range(-(2**63), 2**63)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Raises `Refused` unless `raw` is a JSON object, or (413) when it would make more objects than
    a server has room for.
    """
    _check_count(raw)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refused(422, f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refused(422, "the body is not a JSON object")
    return cast("dict[str, Any]", value)


def _check_count(raw: bytes) -> None:
    """Before anything is made of it: two bytes of JSON can be an object of 64, and more with
    something in it.

    Counted are signs, those in texts too, which is quick and too high rather than too low. Numbers
    may be as many as there is room for.
    """
    if len(raw) <= MOST_LISTS:
        return
    lists, texts = raw.count(b"{") + raw.count(b"["), raw.count(b'"') // 2
    if lists > MOST_LISTS or texts > _MOST_TEXTS:
        raise too_many(f"{lists} objects and lists, and {texts} texts")


def too_many(counted: str) -> Refused:
    return Refused(
        413,
        f"the body has {counted}; at most {MOST_LISTS} objects and lists and {_MOST_TEXTS} texts "
        "are read here, which is more than the "
        "largest batch has; send less at once",
    )


def fingerprint(fields: Mapping[str, Any]) -> str:
    """The same for a request that is sent again.

    An ephemeral save that is sent again takes a new sampling_session_seq_id, so that does not
    count. Raises `Refused` for fields that are nested more deeply than can be written, some 250
    times.
    """
    counted = {name: value for name, value in fields.items() if name != "sampling_session_seq_id"}
    try:
        written = orjson.dumps(counted, default=_digest, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise Refused(422, f"the body cannot be kept: {error}") from error
    return _digest(written)


def _digest(value: bytes | NDArray[Any]) -> str:
    """Of an array, which has no place in JSON as it is."""
    return hashlib.blake2b(
        value if isinstance(value, bytes) else value.tobytes(), digest_size=16
    ).hexdigest()


class _Fault(Exception):
    """What is wrong with a value. Those who were reading what is around it add where it is, from
    within.
    """

    def __init__(self, message: str, key: str | int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.location: list[str | int] = [] if key is None else [key]


def read(kind: type[T], fields: Mapping[str, Any]) -> T:
    """Raises `Refused` (422), which names the field, when `fields` are not of this generated
    type.
    """
    try:
        return _reader(kind)(fields)
    except _Fault as fault:
        raise malformed(*reversed(fault.location), message=fault.message) from None


@cache
def _reader(hint: Any) -> _Reader:
    """What reads a value of an annotation. It is found once, since looking into annotations takes
    longer than reading.
    """
    if hint is Any:
        return lambda value: value
    if get_origin(hint) in (Union, types.UnionType):
        return _union_reader(get_args(hint))
    if get_origin(hint) is list:
        return _list_reader(get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, dict):
        return partial(_read_map, cast("type[dict[str, Any]]", hint))
    return partial(_read_class, hint) if attrs.has(cast("type[Any]", hint)) else _plain_reader(hint)


def _union_reader(members: tuple[Any, ...]) -> _Reader:
    """The contract's unions are of one kind of value with null or absence."""
    read = _reader(next(hint for hint in members if hint is not type(None)))
    return (lambda value: None if value is None else read(value)) if type(None) in members else read


def _list_reader(item: Any) -> _Reader:
    plain, read = item in (int, float), _reader(item)

    def read_list(value: Any) -> list[Any]:
        if plain and isinstance(value, np.ndarray):
            return cast("list[Any]", value)  # in place of a long one
        if not isinstance(value, list):
            raise _Fault("must be a list")
        items = cast("list[Any]", value)
        # long ones are checked whole when they become arrays
        return items if plain else _read_items(read, items)

    return read_list


def _read_items(read: _Reader, items: list[Any]) -> list[Any]:
    values: list[Any] = []
    for index, item in enumerate(items):
        try:
            values.append(read(item))
        except _Fault as fault:
            fault.location.append(index)
            raise
    return values


def _plain_reader(hint: Any) -> _Reader:
    taken = (int, float) if hint is float else (hint,)

    def read_plain(value: Any) -> Any:
        if type(value) not in taken:
            raise _Fault(f"must be {_WORDS[hint]}")
        if hint is int and value not in _INT64:
            raise _Fault("must fit in 64 bits")
        return value

    return read_plain


def _read_map(kind: type[dict[str, Any]], value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Fault("must be an object")
    read, values = _map_reader(kind), kind()
    for key, entry in cast("dict[str, Any]", value).items():
        try:
            values[key] = read(entry)
        except _Fault as fault:
            fault.location.append(key)
            raise
    return values


@cache
def _map_reader(kind: type[dict[str, Any]]) -> _Reader:
    """Returns what reads a value of a generated map. What it imports for the type checker alone, it
    names.
    """
    [base] = cast("Any", kind).__orig_bases__
    item = get_args(base)[1]
    return _reader(_generated()[item] if isinstance(item, str) else item)


def _read_class(kind: type[T], value: Any) -> T:
    if not isinstance(value, dict):
        raise _Fault("must be an object")
    fields = _fields(kind)
    known: dict[str, Any] = dict.fromkeys(fields.nullable)
    extra: dict[str, Any] = {}
    for key, entry in cast("dict[str, Any]", value).items():
        try:
            if (field := fields.by_key.get(key)) is None:
                extra[key] = fields.read_extra(entry)
            elif entry is not None or field.takes_no_null:
                known[field.name] = field.read(entry)
        except _Fault as fault:
            fault.location.append(key)
            raise
    for field in fields.required:
        if field.name not in known:
            raise _Fault("is missing", field.key)
    instance = kind(**known)
    if extra:
        cast("Any", instance).additional_properties = extra
    return instance


@cache
def _generated() -> dict[str, Any]:
    """What the generated annotations name, and import for the type checker alone."""
    return {name: getattr(models, name) for name in models.__all__}


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, localns=_generated())


def _is_float(hint: Any) -> bool:
    """Returns whether it is of numbers with a fraction, and has no null."""
    members = get_args(hint) or (hint,)
    return float in members and type(None) not in members


@frozen
class _Field:
    name: str
    key: str  # in JSON; an attribute that would be a keyword of Python has an underscore after it
    read: _Reader
    takes_no_null: bool


@frozen
class _Fields:
    by_key: Mapping[str, _Field]
    required: Sequence[_Field]
    nullable: Sequence[str]  # names of those that are required, where null and absence are the same
    read_extra: _Reader


@cache
def _fields(kind: type[Any]) -> _Fields:
    hints = _hints(kind)
    by_key: dict[str, _Field] = {}
    required: list[_Field] = []
    nullable: list[str] = []
    for attribute in attrs.fields(kind):
        if not attribute.init:
            continue
        hint = hints[attribute.name]
        field = _Field(
            attribute.name, attribute.name.removesuffix("_"), _reader(hint), _is_float(hint)
        )
        by_key[field.key] = field
        if attribute.default is attrs.NOTHING:
            required.append(field)
            if type(None) in get_args(hint):
                nullable.append(field.name)
    return _Fields(by_key, required, nullable, _reader(get_args(hints["additional_properties"])[1]))

"""Reads JSON bodies into the generated types, and checks each field against the contract's type.

The generated `from_dict` accepts any value, as a client must. A server has to say which field is
wrong, so it reads by the annotations of the generated classes. Unknown fields are kept. A null
counts as absent where the contract has no null, except for floats: there it may stand for NaN or
infinity, which JSON cannot write.
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

from tinkex_server.errors import Reason, Refused, malformed

T = TypeVar("T")
_Reader: TypeAlias = Callable[[Any], Any]
"""A function that converts a value of a body to the generated type. Raises `_FieldError`."""

_TYPE_NAMES: dict[object, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}
MAX_CONTAINERS = 1 << 19
"""The number of objects and lists in one body: 64 for each of 8,192 datums."""
_MAX_STRINGS = 1 << 20


def parse_object(raw: bytes) -> dict[str, Any]:
    """Returns the fields of a JSON body. Raises `Refused` unless it is a JSON object, and if it
    holds more objects than the server accepts.
    """
    _check_count(raw)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refused(Reason.MALFORMED, f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refused(Reason.MALFORMED, "the body is not a JSON object")
    return cast("dict[str, Any]", value)


def _check_count(raw: bytes) -> None:
    """Raises `Refused` if the body holds too many objects, lists or strings.

    It runs before the body is parsed, since two bytes of JSON can become an object of 64 bytes or
    more in memory. It counts brackets and quotes, also inside strings: that is fast, and never too
    low. The number of numbers is bounded only by the size of the body.
    """
    if len(raw) <= MAX_CONTAINERS:
        return
    containers, strings = raw.count(b"{") + raw.count(b"["), raw.count(b'"') // 2
    if containers > MAX_CONTAINERS or strings > _MAX_STRINGS:
        raise too_many(f"{containers} objects and lists, and {strings} strings")


def too_many(counted: str) -> Refused:
    """Returns the refusal of a body that holds too many objects."""
    return Refused(
        Reason.TOO_LARGE,
        f"the body has {counted}; this server reads at most {MAX_CONTAINERS} objects and lists and "
        f"{_MAX_STRINGS} strings, more than the largest batch has; send less at once",
    )


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Returns a digest of a body, which is the same when the request is sent again.

    It leaves sampling_session_seq_id out: an ephemeral save that is sent again has a new one.
    Raises `Refused` for fields that are nested more than about 250 levels deep.
    """
    counted = fields
    if "sampling_session_seq_id" in fields:
        counted = {name: fields[name] for name in fields if name != "sampling_session_seq_id"}
    try:
        written = orjson.dumps(counted, default=_digest, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise Refused(
            Reason.MALFORMED, f"the body cannot be written as JSON again: {error}"
        ) from error
    return _digest(written)


def _digest(value: bytes | NDArray[Any]) -> str:
    return hashlib.blake2b(
        value if isinstance(value, bytes) else value.tobytes(), digest_size=16
    ).hexdigest()


class _FieldError(Exception):
    """A value that is wrong. Its location is collected from the inside out, while the readers of
    the values around it handle the exception.
    """

    def __init__(self, message: str, key: str | int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.location: list[str | int] = [] if key is None else [key]


def read(kind: type[T], fields: Mapping[str, Any]) -> T:
    """Returns the fields of a body as a generated type. Raises `Refused`, naming the field,
    if they are not of this type.
    """
    try:
        return _reader(kind)(fields)
    except _FieldError as fault:
        raise malformed(*reversed(fault.location), message=fault.message) from None


@cache
def _reader(hint: Any) -> _Reader:
    """Returns the reader of an annotation. It is cached, since inspecting an annotation takes
    longer than reading a value.
    """
    if hint is Any:
        return lambda value: value
    if get_origin(hint) in (Union, types.UnionType):
        return _union_reader(hint)
    if get_origin(hint) is list:
        return _list_reader(get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, dict):
        return partial(_read_map, cast("type[dict[str, Any]]", hint))
    kind = cast("type[Any]", hint)
    return _class_reader(kind) if attrs.has(kind) else _plain_reader(hint)


def _union_reader(hint: Any) -> _Reader:
    read = _reader(_without_null(hint))
    has_null = type(None) in get_args(hint)
    return (lambda value: None if value is None else read(value)) if has_null else read


def _without_null(hint: Any) -> Any:
    """Returns the only kind of value that a union of the contract is of, beside null or absence."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    return next(member for member in get_args(hint) if member is not type(None))


def _list_reader(item: Any) -> _Reader:
    plain, read = item in (int, float), _reader(item)

    def read_list(value: Any) -> list[Any]:
        if plain and isinstance(value, np.ndarray):
            return cast(
                "list[Any]", value
            )  # the protobuf reader gives arrays in place of long lists
        if not isinstance(value, list):
            raise _FieldError("must be a list")
        items = cast("list[Any]", value)
        # lists of numbers are checked as a whole when they become arrays
        return items if plain else _read_items(read, items)

    return read_list


def _read_items(read: _Reader, items: list[Any]) -> list[Any]:
    values: list[Any] = []
    for index, item in enumerate(items):
        try:
            values.append(read(item))
        except _FieldError as fault:
            fault.location.append(index)
            raise
    return values


def _plain_reader(hint: Any) -> _Reader:
    if hint is int:
        return _read_int
    taken = (int, float) if hint is float else (hint,)

    def read_plain(value: Any) -> Any:
        if type(value) not in taken:
            raise _FieldError(f"must be {_TYPE_NAMES[hint]}")
        return value

    return read_plain


def _read_int(value: Any) -> int:
    if type(value) is not int:
        raise _FieldError(f"must be {_TYPE_NAMES[int]}")
    if not -(2**63) <= value < 2**63:
        raise _FieldError("must fit in 64 bits")
    return value


def _read_map(kind: type[dict[str, Any]], value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _FieldError("must be an object")
    read, values = _map_reader(kind), kind()
    for key, entry in cast("dict[str, Any]", value).items():
        try:
            values[key] = read(entry)
        except _FieldError as fault:
            fault.location.append(key)
            raise
    return values


@cache
def _map_reader(kind: type[dict[str, Any]]) -> _Reader:
    """Returns the reader of the values of a generated map. The map names types that it imports for
    the type checker alone as strings.
    """
    [base] = cast("Any", kind).__orig_bases__
    item = get_args(base)[1]
    return _reader(_generated()[item] if isinstance(item, str) else item)


def _class_reader(kind: type[T]) -> _Reader:
    fields: _Fields | None = None

    def read_class(value: Any) -> T:
        nonlocal fields
        if not isinstance(value, dict):
            raise _FieldError("must be an object")
        # a class may hold others of its own kind, so its fields are looked at when it is first read
        fields = fields or _fields(kind)
        by_key, known = fields.by_key, dict(fields.absent)
        extra: dict[str, Any] = {}
        key = None
        try:
            for key, entry in cast("dict[str, Any]", value).items():
                if (field := by_key.get(key)) is None:
                    extra[key] = fields.read_extra(entry)
                elif entry is not None or field.takes_no_null:
                    known[field.name] = field.read(entry)
        except _FieldError as fault:
            fault.location.append(cast("str", key))
            raise
        for field in fields.required:
            if field.name not in known:
                raise _FieldError("is missing", field.key)
        instance = kind(**known)
        if extra:
            cast("Any", instance).additional_properties = extra
        return instance

    return read_class


@cache
def _generated() -> dict[str, Any]:
    """Returns the generated types by name, for annotations whose imports are not executed."""
    return {name: getattr(models, name) for name in models.__all__}


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, localns=_generated())


def _is_float(hint: Any) -> bool:
    """Returns whether an annotation is of floats, without null."""
    members = get_args(hint) or (hint,)
    return float in members and type(None) not in members


@frozen
class _Field:
    name: str
    key: str  # in JSON; an attribute named like a Python keyword has an underscore appended
    read: _Reader
    takes_no_null: bool


@frozen
class _Fields:
    by_key: Mapping[str, _Field]
    required: Sequence[_Field]
    absent: Mapping[str, None]  # required fields for which null and absence are the same, by name
    read_extra: _Reader


@cache
def _fields(kind: type[Any]) -> _Fields:
    hints = _hints(kind)
    by_key: dict[str, _Field] = {}
    required: list[_Field] = []
    absent: dict[str, None] = {}
    for attribute in attrs.fields(kind):
        if not attribute.init:
            continue
        hint = hints[attribute.name]
        field = _Field(
            attribute.name,
            attribute.name.removesuffix("_"),
            # a null of a nullable field is not read at all
            _reader(_without_null(hint)),
            _is_float(hint),
        )
        by_key[field.key] = field
        if attribute.default is attrs.NOTHING:
            required.append(field)
            if type(None) in get_args(hint):
                absent[field.name] = None
    return _Fields(by_key, required, absent, _reader(get_args(hints["additional_properties"])[1]))

"""`Reference`: the contract as the page `/docs` shows it, as groups of operations, and schemas with
their fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import yaml
from attrs import frozen
from markdown_it import MarkdownIt
from markupsafe import Markup

from tinkex_server.pages.contract import contract_text

_METHODS = ("get", "post", "put", "delete")
_SCHEMAS = "#/components/schemas/"
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table")


@frozen
class Word:
    """A part of a type's name, which links to a schema if it names one."""

    text: str
    schema: str | None = None


@frozen
class Field:
    """A property of a schema, or a parameter of an operation."""

    name: str
    type: Sequence[Word]
    required: bool
    about: Markup
    place: str = ""
    """The place of a parameter: path, query or header."""


@frozen
class Schema:
    name: str
    about: Markup
    fields: Sequence[Field]
    example: str | None


@frozen
class Body:
    """One encoding of a request's or an answer's body."""

    media_type: str
    type: Sequence[Word]
    schema: Schema | None


@frozen
class Answer:
    status: str
    about: Markup
    bodies: Sequence[Body]


@frozen
class Operation:
    anchor: str
    method: str
    path: str
    summary: str
    about: Markup
    parameters: Sequence[Field]
    bodies: Sequence[Body]
    answers: Sequence[Answer]
    refusals: Sequence[Answer]


@frozen
class Group:
    name: str
    about: Markup
    operations: Sequence[Operation]


@frozen
class Reference:
    title: str
    version: str
    about: Markup
    groups: Sequence[Group]
    schemas: Sequence[Schema]


@cache
def reference() -> Reference:
    """Returns the contract's reference. The first call is slow: use a worker thread."""
    return read(yaml.load(contract_text(), yaml.CSafeLoader))


def read(document: Mapping[str, Any]) -> Reference:
    """Returns the reference of an OpenAPI document whose operations are grouped by tags."""
    return _Reader(document).reference()


class _Reader:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._schemas = {
            name: _schema(name, fields)
            for name, fields in document["components"]["schemas"].items()
        }

    def reference(self) -> Reference:
        info = self._document["info"]
        groups = [
            Group(tag["name"], _html(tag["description"]), self._operations(tag["name"]))
            for tag in self._document["tags"]
        ]
        return Reference(
            info["title"],
            info["version"],
            _html(info["description"]),
            groups,
            list(self._schemas.values()),
        )

    def _operations(self, group: str) -> Sequence[Operation]:
        return [
            self._operation(path, method, item[method])
            for path, item in self._document["paths"].items()
            for method in _METHODS
            if method in item and group in item[method]["tags"]
        ]

    def _operation(self, path: str, method: str, fields: Mapping[str, Any]) -> Operation:
        answers = [
            self._answer(status, self._resolve(answer))
            for status, answer in fields["responses"].items()
        ]
        return Operation(
            anchor=fields["operationId"],
            method=method,
            path=path,
            summary=fields["summary"],
            about=_html(fields.get("description", "")) + _notes(fields),
            parameters=[
                _parameter(self._resolve(parameter)) for parameter in fields.get("parameters", ())
            ],
            bodies=self._bodies(self._resolve(fields.get("requestBody", {}))),
            answers=[answer for answer in answers if answer.status < "4"],
            refusals=[answer for answer in answers if answer.status >= "4"],
        )

    def _answer(self, status: str, fields: Mapping[str, Any]) -> Answer:
        return Answer(status, _html(fields["description"]), self._bodies(fields))

    def _bodies(self, fields: Mapping[str, Any]) -> Sequence[Body]:
        return [
            self._body(media_type, form["schema"])
            for media_type, form in fields.get("content", {}).items()
        ]

    def _body(self, media_type: str, schema: Mapping[str, Any]) -> Body:
        name = _schema_name(schema)
        return Body(media_type, _type(schema), None if name is None else self._schemas[name])

    def _resolve(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the shared part that a `$ref` points to; other fields as they are."""
        if "$ref" not in fields:
            return fields
        part: Any = self._document
        for key in fields["$ref"].removeprefix("#/").split("/"):
            part = part[key]
        return part


def _schema(name: str, fields: Mapping[str, Any]) -> Schema:
    required = fields.get("required", ())
    example = fields.get("example")
    return Schema(
        name=name,
        about=_html(fields.get("description", "")) + _notes(fields),
        fields=[
            _field(name, value, required=name in required)
            for name, value in fields.get("properties", {}).items()
        ],
        example=None if example is None else json.dumps(example, indent=2, ensure_ascii=False),
    )


def _field(name: str, fields: Mapping[str, Any], *, required: bool) -> Field:
    return Field(
        name, _type(fields), required, _html(fields.get("description", "")) + _notes(fields)
    )


def _parameter(fields: Mapping[str, Any]) -> Field:
    about = _html(fields.get("description", "")) + _notes({**fields["schema"], **fields})
    return Field(
        fields["name"], _type(fields["schema"]), fields.get("required", False), about, fields["in"]
    )


def _type(schema: Mapping[str, Any]) -> Sequence[Word]:
    """Returns a type's name in words, such as "list of Datum" or "string or null"."""
    if (name := _schema_name(schema)) is not None:
        return [Word(name, name)]
    if "oneOf" in schema:
        return _joined([_type(part) for part in schema["oneOf"]])
    if isinstance(schema.get("type"), list):
        return _joined([_type({**schema, "type": part}) for part in schema["type"]])
    if schema.get("type") == "array":
        return [Word("list of "), *_type(schema.get("items", {}))]
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return [Word("map of "), *_type(schema["additionalProperties"])]
    kind = schema.get("type", "anything")
    return [Word(f"{kind} ({schema['format']})" if "format" in schema and kind != "null" else kind)]


def _joined(types: Iterable[Sequence[Word]]) -> Sequence[Word]:
    words: list[Word] = []
    for parts in types:
        words += [Word(" or "), *parts] if words else parts
    return words


def _schema_name(schema: Mapping[str, Any]) -> str | None:
    return (
        schema["$ref"].removeprefix(_SCHEMAS)
        if schema.get("$ref", "").startswith(_SCHEMAS)
        else None
    )


def _notes(fields: Mapping[str, Any]) -> Markup:
    """Returns the notes on a schema, field or operation beside its description."""
    notes = [(label, fields[key]) for key, label in _NOTES.items() if key in fields]
    return Markup("").join(
        Markup('<p class="soft">{}: {}</p>').format(label, _plain(value)) for label, value in notes
    )


_NOTES = {
    "default": "Default",
    "x-tinker-default": "Assumed when missing",
    "x-tinker-known-values": "Known values",
    "enum": "Values",
    "x-tinker-first-seen": "First seen in the official client",
    "x-tinker-last-seen": "Last seen in the official client",
    "x-tinker-missing-on": "Missing on",
    "x-tinker-extension": "An extension of tinkex",
}


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(part) for part in value)  # pyright: ignore[reportUnknownVariableType]
    return value if isinstance(value, str) else json.dumps(value)


def _html(text: str) -> Markup:
    return Markup(_markdown.render(text))  # the renderer escapes HTML in the text

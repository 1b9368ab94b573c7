"""Templates of answers as plain data, with `Ref` for values that are known only when the answer is
given; and access to the fields of bodies, which may be missing or of any type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from attrs import evolve, field, frozen

Values: TypeAlias = Mapping[str, Any]
Fields: TypeAlias = dict[str, Any]
"""The fields of a JSON body, which a profile may change."""


@frozen
class Ref:
    """A placeholder for the value at a path of keys, joined by dots."""

    path: str
    otherwise: str = ""
    """A second path, for when there is nothing at the first. If that fails too, the value is null.
    """


@frozen
class Each:
    """A placeholder for the list at a path, with each item filled into a template."""

    path: str
    template: Mapping[str, Any]
    """The template of one item, whose references are to the item's fields."""


@frozen
class Reply:
    """A whole answer, with a JSON body or a text."""

    status: int
    body: Mapping[str, Any] | str
    headers: Mapping[str, str] = field(factory=dict[str, str])

    def filled(self, values: Values) -> Reply:
        """Returns the reply with its references resolved."""
        return self if isinstance(self.body, str) else evolve(self, body=fill(self.body, values))


@frozen
class Shape:
    """A change of an answer: these fields are added to it, or replace all others if `only`."""

    fields: Mapping[str, Any]
    only: bool = False

    def of(self, answer: Values, **more: Any) -> dict[str, Any]:
        """Returns the changed answer. References are to the answer's own fields and to `more`."""
        return {**({} if self.only else answer), **fill(self.fields, {**more, **answer})}


def also(**fields: Any) -> Shape:
    """Returns a shape that adds these fields."""
    return Shape(fields)


def only(**fields: Any) -> Shape:
    """Returns a shape that replaces all fields by these."""
    return Shape(fields, only=True)


def fill(template: Any, values: Values) -> Any:
    """Returns a template with its references resolved."""
    if isinstance(template, Ref):
        found = look_up(values, template.path)
        return (
            look_up(values, template.otherwise) if found is None and template.otherwise else found
        )
    if isinstance(template, Each):
        return [fill(template.template, item) for item in list_at(values, template.path)]
    if isinstance(template, Mapping):
        return {
            key: fill(value, values) for key, value in cast("Mapping[str, Any]", template).items()
        }
    return template


def mapping_at(values: Any, path: str) -> dict[str, Any] | None:
    """Returns the object at the path, or None."""
    value = look_up(values, path)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def list_at(values: Any, path: str) -> list[Any]:
    """Returns the list at the path, or an empty one."""
    value = look_up(values, path)
    return cast("list[Any]", value) if isinstance(value, list) else []


def text_at(values: Any, path: str) -> str | None:
    """Returns the string at the path, or None."""
    value = look_up(values, path)
    return value if isinstance(value, str) else None


def integer_at(values: Any, path: str) -> int | None:
    """Returns the integer at the path, or None."""
    value = look_up(values, path)
    return value if type(value) is int else None


def look_up(values: Any, path: str) -> Any:
    """Returns the value at the path, or None."""
    for key in path.split("."):
        if not isinstance(values, Mapping):
            return None
        values = cast("Values", values).get(key)
    return values

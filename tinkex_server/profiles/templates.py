"""Answers as plain data: what stands where, with `Ref` for what is only known when the answer is
given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from attrs import evolve, field, frozen

Values: TypeAlias = Mapping[str, Any]


@frozen
class Ref:
    """Stands for the value at a path of keys, joined by dots, or at another path; null where there
    is none.
    """

    path: str
    otherwise: str = ""


@frozen
class Each:
    """Stands for the items of the list at a path, each made by a template that refers to the item's
    own fields.
    """

    path: str
    template: Mapping[str, Any]


@frozen
class Reply:
    """A whole answer. Its body may be text."""

    status: int
    body: Mapping[str, Any] | str
    headers: Mapping[str, str] = field(factory=dict[str, str])

    def filled(self, values: Values) -> Reply:
        return self if isinstance(self.body, str) else evolve(self, body=fill(self.body, values))


@frozen
class Shape:
    """What an answer's fields become: these, after those that it has already unless `only`."""

    fields: Mapping[str, Any]
    only: bool = False

    def of(self, answer: Values, **more: Any) -> dict[str, Any]:
        """References are to the answer's own fields, and to `more`."""
        return {**({} if self.only else answer), **fill(self.fields, {**more, **answer})}


def also(**fields: Any) -> Shape:
    return Shape(fields)


def only(**fields: Any) -> Shape:
    return Shape(fields, only=True)


def fill(template: Any, values: Values) -> Any:
    """The template with its references resolved."""
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
    """The object that is at the path, or None."""
    value = look_up(values, path)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def list_at(values: Any, path: str) -> list[Any]:
    """The list that is at the path, or an empty one."""
    value = look_up(values, path)
    return cast("list[Any]", value) if isinstance(value, list) else []


def look_up(values: Any, path: str) -> Any:
    """What is at the path, or None."""
    for key in path.split("."):
        if not isinstance(values, Mapping):
            return None
        values = cast("Values", values).get(key)
    return values

"""Answers as plain data: what stands where, with `Ref` for what is only known when the answer is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from attrs import frozen

Values: TypeAlias = Mapping[str, Any]


@frozen
class Ref:
    """Stands for the value at a path of keys and indices, joined by dots; null where there is none."""

    path: str


@frozen
class Each:
    """Stands for the items of the list at a path, each made by a template that refers to the item's own fields."""

    path: str
    template: Mapping[str, Any]


@frozen
class Reply:
    """A whole answer. Its body may be text."""

    status: int
    body: Mapping[str, Any] | str

    def filled(self, values: Values) -> Reply:
        return Reply(self.status, self.body if isinstance(self.body, str) else fill(self.body, values))


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
        return look_up(values, template.path)
    if isinstance(template, Each):
        return [fill(template.template, item) for item in look_up(values, template.path) or ()]
    if isinstance(template, Mapping):
        return {key: fill(value, values) for key, value in cast("Mapping[str, Any]", template).items()}
    return template


def look_up(values: Any, path: str) -> Any:
    """What is at the path, or None."""
    for key in path.split("."):
        if isinstance(values, Mapping):
            values = cast("Values", values).get(key)
        elif isinstance(values, Sequence) and not isinstance(values, str) and key.isdigit() and int(key) < len(values):
            values = cast("Sequence[Any]", values)[int(key)]
        else:
            return None
    return values

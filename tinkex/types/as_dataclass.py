"""`as_dataclass`: lets the functions of `dataclasses`, and models of pydantic, take a class of
attrs.
"""

from __future__ import annotations

from dataclasses import make_dataclass
from inspect import signature
from typing import Any, TypeVar

C = TypeVar("C")


def as_dataclass(cls: type[C]) -> type[C]:
    """Gives a class what `dataclasses.replace`, `fields` and `asdict` go by: the parameters of its
    constructor.

    Each must have an attribute of its name. A model of pydantic that has such a field takes
    instances, as they are.
    """
    given = [
        (parameter.name, parameter.annotation) for parameter in signature(cls).parameters.values()
    ]
    twin: Any = make_dataclass(cls.__name__, given, init=False, repr=False, eq=False)
    own: Any = cls
    own.__dataclass_fields__ = twin.__dataclass_fields__
    own.__get_pydantic_core_schema__ = classmethod(_pydantic_schema)
    return cls


def _pydantic_schema(cls: type[Any], source: Any, handler: Any) -> Any:
    from pydantic_core import core_schema  # pyright: ignore  # there where pydantic calls this

    return core_schema.is_instance_schema(cls)  # pyright: ignore

"""`as_dataclass`: makes an attrs class usable with the functions of `dataclasses` and in pydantic
models.
"""

from __future__ import annotations

from dataclasses import make_dataclass
from inspect import signature
from typing import Any, TypeVar

C = TypeVar("C")


def as_dataclass(cls: type[C]) -> type[C]:
    """Lets `dataclasses.replace`, `fields` and `asdict` take a class, with the parameters of its
    constructor as its fields.

    Each parameter must have an attribute of the same name. A pydantic model may have a field of
    this class: it takes instances, and leaves them as they are.
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
    from pydantic_core import core_schema  # pyright: ignore  # pydantic calls this, so it is installed

    return core_schema.is_instance_schema(cls)  # pyright: ignore

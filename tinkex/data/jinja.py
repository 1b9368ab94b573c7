"""The rendering of a tokenizer's own chat template, in a sandbox: a template is a program that
comes with a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from tinkex.errors import ConfigError


class TemplateRefusal(Exception):
    """An error that the template raises itself, such as for roles in a wrong order."""


@lru_cache(maxsize=8)
def compiled(source: str) -> Callable[..., str]:
    """Returns the function that renders a template with the fields given to it.

    Templates are written for transformers, so that they get what it gives them: `raise_exception`,
    `strftime_now`, a `tojson` that keeps all letters, `break` and `continue` in loops, and the
    block `generation`, which only marks a part of the text.

    Raises:
        ConfigError: jinja2 is not installed, or the template is not one.
    """
    try:
        from jinja2 import TemplateSyntaxError, nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ConfigError(
            "the tokenizer's chat template needs jinja2, which is not installed",
            advice="pip install 'jinja2>=3.1'",
        ) from error

    class Generation(Extension):
        """The block `generation`, whose content is rendered as it is."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    given: dict[str, Any] = environment.globals
    given.update(raise_exception=_refuse, strftime_now=_now)
    try:
        return environment.from_string(source).render
    except TemplateSyntaxError as error:
        raise ConfigError(f"the tokenizer's chat template is not valid: {error}") from error


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(message)


def _now(format: str) -> str:
    return datetime.now().astimezone().strftime(format)

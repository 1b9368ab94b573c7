"""The chat templates of models: how a message of the playground becomes a prompt. A template is a
program that comes with a model, and runs in a sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn, cast

from tinkex_server.engine.interface import ModelInfo
from tinkex_server.errors import bad_request


def has_chat_template(model: ModelInfo) -> bool:
    """Returns whether a model comes with a chat template."""
    return _source(_settings(model.tokenizer_config_json or "{}")) is not None


def chat_prompt(model: ModelInfo, message: str) -> str:
    """Returns what the model reads before it answers a user's message.

    Raises `Refused` (400) if the model has no template, or if the template cannot be used.
    """
    settings = _settings(model.tokenizer_config_json or "{}")
    source = _source(settings)
    if source is None:
        raise bad_request(f"the tokenizer of {model.name!r} has no chat template on the server")
    try:
        return _compiled(source)(
            messages=[{"role": "user", "content": message}],
            add_generation_prompt=True,
            tools=None,
            documents=None,
            **_special_tokens(settings),
        )
    except Exception as error:  # whatever the template raises, which is a program of its own
        raise bad_request(
            f"the chat template of {model.name!r} cannot be used: {error or type(error).__name__}"
        ) from error


@lru_cache(maxsize=8)
def _settings(text: str) -> Mapping[str, Any]:
    """Returns the fields of a tokenizer_config.json, which the page of the playground needs for
    each run, and which has thousands of tokens for some models.
    """
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _source(settings: Mapping[str, Any]) -> str | None:
    """Returns the template; where there are several, the one named "default"."""
    found: Any = settings.get("chat_template")
    if isinstance(found, list):
        named = cast("list[dict[str, str]]", found)
        return next((each["template"] for each in named if each["name"] == "default"), None)
    return found if isinstance(found, str) else None


def _special_tokens(settings: Mapping[str, Any]) -> Mapping[str, str]:
    """Returns the text of each special token by its role, such as `bos_token`."""
    roles = (name for name in settings if name.endswith("_token"))
    texts = {name: _content(settings[name]) for name in roles}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _content(token: Any) -> Any:
    """Returns the text of a token, which is a string or an object with the token's properties."""
    return cast("dict[str, Any]", token).get("content") if isinstance(token, dict) else token


@lru_cache(maxsize=8)
def _compiled(source: str) -> Callable[..., str]:
    """Returns the function that renders a template. Templates are written for transformers, which
    gives them `raise_exception`, `strftime_now`, a `tojson` that keeps all letters, `break` and
    `continue` in loops, and the block `generation`.
    """
    from jinja2 import nodes  # here, since most servers render no template
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block `generation`, which marks a part of the text and leaves it as it is."""

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
    return environment.from_string(source).render


def _to_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)

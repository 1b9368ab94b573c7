"""A sampler as a text that can be sent anywhere: where it is, what it is called, and its server's
ways; no key. Plain values.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson
from attrs import asdict, evolve, fields, frozen

from tinkex.config import Config
from tinkex.dialects.dialect import Dialect, SamplingRules
from tinkex.dialects.table import UNKNOWN
from tinkex.errors import InvalidInputError

_PLAIN = (str, bool, int, float)


@frozen
class SamplerHandle:
    """What another process needs to sample by the same sampling session."""

    base_url: str
    session_id: str
    sampling_session_id: str
    base_model: str | None
    dialect: Mapping[str, Any]

    def config(self, api_key: str | None) -> Config:
        """The settings for it; what it does not say comes from the environment, and so does the key
        when it is None.
        """
        config = Config(base_url=self.base_url, dialect=_dialect(self.dialect))
        return config if api_key is None else evolve(config, api_key=api_key)


def pack(
    base_url: str,
    session_id: str,
    sampling_session_id: str,
    base_model: str | None,
    dialect: Dialect,
) -> str:
    """As base64 of JSON, which is safe in URLs."""
    handle = SamplerHandle(base_url, session_id, sampling_session_id, base_model, _facts(dialect))
    return base64.urlsafe_b64encode(orjson.dumps(asdict(handle))).decode()


def unpack(text: str) -> SamplerHandle:
    """Raises `InvalidInputError` for what `pack` did not make. Fields of later releases are left
    out.
    """
    try:
        given = orjson.loads(base64.urlsafe_b64decode(text))
        return SamplerHandle(**{field.name: given[field.name] for field in fields(SamplerHandle)})
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"this is no handle of a sampler: {type(error).__name__}: {error}",
            advice="Give the text that get_sampler_handle returned, whole.",
        ) from error


def _facts(dialect: Dialect) -> dict[str, Any]:
    """Those that sampling needs; the others are of training."""
    plain = {field.name: getattr(dialect, field.name) for field in fields(Dialect)}
    return {
        **{name: value for name, value in plain.items() if isinstance(value, _PLAIN)},
        "missing": dict(dialect.missing),
        "sampling": asdict(dialect.sampling),
    }


def _dialect(facts: Mapping[str, Any]) -> Dialect:
    known = {field.name for field in fields(Dialect)}
    ways = {field.name for field in fields(SamplingRules)}
    given = {name: value for name, value in facts.items() if name in known}
    sampling = SamplingRules(
        **{name: value for name, value in facts["sampling"].items() if name in ways}
    )
    return evolve(UNKNOWN, **{**given, "sampling": sampling})

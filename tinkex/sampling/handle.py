"""A sampler as a string that can be sent anywhere: its server's URL and dialect, and its ids. It
holds no API key. Plain values: no I/O here.
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
    """The facts that another process needs to sample from the same sampling session."""

    base_url: str
    session_id: str
    sampling_session_id: str
    base_model: str | None
    dialect: Mapping[str, Any]

    def config(self, api_key: str | None) -> Config:
        """Returns the settings for its server. All others come from the environment, and so does
        the API key when it is None.
        """
        config = Config(base_url=self.base_url, dialect=_read_dialect(self.dialect))
        return config if api_key is None else evolve(config, api_key=api_key)


def pack(
    base_url: str,
    session_id: str,
    sampling_session_id: str,
    base_model: str | None,
    dialect: Dialect,
) -> str:
    """Returns a handle as URL-safe base64 of JSON."""
    handle = SamplerHandle(
        base_url, session_id, sampling_session_id, base_model, _dialect_fields(dialect)
    )
    return base64.urlsafe_b64encode(orjson.dumps(asdict(handle))).decode()


def unpack(text: str) -> SamplerHandle:
    """Reads a handle that `pack` returned. Ignores fields that only later releases know.

    Raises:
        InvalidInputError: `text` is not such a handle.
    """
    try:
        given = orjson.loads(base64.urlsafe_b64decode(text))
        return SamplerHandle(**{field.name: given[field.name] for field in fields(SamplerHandle)})
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"this is not a sampler handle: {type(error).__name__}: {error}",
            advice="Give the whole string that get_sampler_handle returned.",
        ) from error


def _dialect_fields(dialect: Dialect) -> dict[str, Any]:
    """Returns the dialect's fields that sampling needs; the others concern training."""
    plain = {field.name: getattr(dialect, field.name) for field in fields(Dialect)}
    return {
        **{name: value for name, value in plain.items() if isinstance(value, _PLAIN)},
        "missing": dict(dialect.missing),
        "sampling": asdict(dialect.sampling),
    }


def _read_dialect(given: Mapping[str, Any]) -> Dialect:
    known = {field.name for field in fields(Dialect)}
    rules = {field.name for field in fields(SamplingRules)}
    plain = {name: value for name, value in given.items() if name in known}
    sampling = SamplingRules(
        **{name: value for name, value in given["sampling"].items() if name in rules}
    )
    return evolve(UNKNOWN, **{**plain, "sampling": sampling})

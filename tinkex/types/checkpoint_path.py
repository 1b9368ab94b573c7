"""`ParsedCheckpointTinkerPath`: what the path of a checkpoint says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import frozen
from tinkex_api.types import Model

from tinkex.errors import InvalidInputError

CheckpointType = Literal["training", "sampler", "external"]

_SCHEME = "tinker"
EXTERNAL_WEIGHTS = "external_weights"
KINDS: Mapping[str, CheckpointType] = {
    "weights": "training",
    "sampler_weights": "sampler",
    EXTERNAL_WEIGHTS: "external",
}
"""What checkpoints of a kind are for; the kind is the first part of their ids."""


def split_path(path: str) -> tuple[str, str, str, str]:
    """Returns scheme, training run, kind and name of `<scheme>://<training run>/<kind>/<name>`,
    each empty where it is missing.
    """
    scheme, separator, rest = path.partition("://")
    before, _, name = rest.rpartition("/")
    run_id, _, kind = before.rpartition("/")
    if kind not in KINDS:
        run_id, kind = before, ""
    return (scheme, run_id, kind, name) if separator else ("", "", "", "")


@frozen(kw_only=True)
class ParsedCheckpointTinkerPath(Model):
    """The parts of `tinker://<training run>/<kind>/<name>`.

    Example:
        >>> ParsedCheckpointTinkerPath.from_tinker_path("tinker://S1:train:0/weights/0001").checkpoint_id 'weights/0001'
    """

    tinker_path: str
    training_run_id: str
    checkpoint_type: CheckpointType
    checkpoint_id: str
    """`<kind>/<name>`"""

    @classmethod
    def from_tinker_path(cls, tinker_path: str) -> ParsedCheckpointTinkerPath:
        """Raises `InvalidInputError` for a path of another form."""
        scheme, run_id, kind, name = split_path(tinker_path)
        if scheme != _SCHEME or not run_id or "/" in run_id or not kind or not name:
            raise InvalidInputError(
                f"the path {tinker_path!r} is not of the form tinker://<training "
                "run>/<kind>/<name>",
                advice=f"The kind is one of {', '.join(KINDS)}.",
            )
        return cls(
            tinker_path=tinker_path,
            training_run_id=run_id,
            checkpoint_type=KINDS[kind],
            checkpoint_id=f"{kind}/{name}",
        )

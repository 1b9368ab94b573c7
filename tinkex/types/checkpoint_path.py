"""Paths and ids of checkpoints, and their parts. Plain values: no I/O here."""

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
"""The type of each kind of checkpoint; the kind is the first part of a checkpoint's id."""


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
        parsed = ParsedCheckpointTinkerPath.from_tinker_path("tinker://S1:train:0/weights/0001")
        print(parsed.training_run_id, parsed.checkpoint_id)  # S1:train:0 weights/0001
        print(parsed.checkpoint_type)  # training
    """

    tinker_path: str
    training_run_id: str
    checkpoint_type: CheckpointType
    checkpoint_id: str
    """The id, `<kind>/<name>`."""

    @classmethod
    def from_tinker_path(cls, tinker_path: str) -> ParsedCheckpointTinkerPath:
        """Reads a path. Raises `InvalidInputError` for a path of another form."""
        scheme, run_id, kind, name = split_path(tinker_path)
        if scheme != _SCHEME or not run_id or "/" in run_id or not kind or not name:
            raise _wrong_path(tinker_path)
        return cls(
            tinker_path=tinker_path,
            training_run_id=run_id,
            checkpoint_type=KINDS[kind],
            checkpoint_id=f"{kind}/{name}",
        )


@frozen
class CheckpointAddress:
    """The three ids by which the server's routes address a checkpoint."""

    training_run_id: str
    kind: str
    """The first part of the checkpoint's id; empty for a route that takes bare names."""
    name: str

    @classmethod
    def from_id(
        cls, training_run_id: str, checkpoint_id: str, *, bare: bool = False
    ) -> CheckpointAddress:
        """Reads `<kind>/<name>`, or for a route that takes bare names (`bare`) the name alone.

        Raises:
            InvalidInputError: the id has another form.
        """
        kind, slash, name = checkpoint_id.rpartition("/")
        if not (training_run_id and name and (kind or (bare and not slash))):
            raise InvalidInputError(
                f"checkpoint_id {checkpoint_id!r} is not of the form <kind>/<name>",
                advice=(
                    f"The kind is one of {', '.join(KINDS)}. Where a server lists bare names, "
                    "`Checkpoint.tinker_path` has the kind."
                ),
            )
        return cls(training_run_id, "" if bare else kind, name)

    @classmethod
    def from_path(cls, path: str, *, bare: bool = False) -> CheckpointAddress:
        """Reads `<scheme>://<training run>/<kind>/<name>`, where the kind may be missing for a
        route that takes bare names (`bare`).

        Raises:
            InvalidInputError: the path has another form.
        """
        scheme, run_id, kind, name = split_path(path)
        if not (scheme and run_id and name and (kind or bare)):
            raise _wrong_path(path)
        return cls(run_id, "" if bare else kind, name)

    @property
    def ids(self) -> tuple[str, str, str]:
        """Training run, kind and name, in the order in which the generated requests take them."""
        return self.training_run_id, self.kind, self.name


def _wrong_path(path: str) -> InvalidInputError:
    return InvalidInputError(
        f"the path {path!r} is not of the form tinker://<training run>/<kind>/<name>",
        advice=f"The kind is one of {', '.join(KINDS)}.",
    )

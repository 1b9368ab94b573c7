"""Names and paths of checkpoints: `tinker://<run id>/<kind>/<name>`."""

from __future__ import annotations

import re

from attrs import frozen

from tinkex_server.errors import Refused, bad_request, malformed

WEIGHTS = "weights"
SAMPLER_WEIGHTS = "sampler_weights"
EXTERNAL_WEIGHTS = "external_weights"
CHECKPOINT_TYPES = {WEIGHTS: "training", SAMPLER_WEIGHTS: "sampler", EXTERNAL_WEIGHTS: "external"}

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,255}")
_PATH = re.compile(r"tinker://([^/]+)/([^/]+)/([^/]+)")


@frozen
class CheckpointPath:
    """The path of saved weights."""

    run_id: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"tinker://{self.run_id}/{self.kind}/{self.name}"

    @property
    def checkpoint_id(self) -> str:
        """The part of the path that is unique within a run."""
        return f"{self.kind}/{self.name}"

    @property
    def folder_parts(self) -> tuple[str, ...]:
        """The parts that the name of its folder is made of."""
        return "checkpoints", self.run_id, self.kind, self.name


def check_name(name: str, field: str) -> str:
    """Returns a name. Raises `Refused`, naming the field, if it cannot be part of a path."""
    if not _NAME.fullmatch(name):
        raise malformed(
            field, message="must be 1 to 255 of A-Z a-z 0-9 . _ - and not begin with a dot"
        )
    return name


def parse(text: str) -> CheckpointPath:
    """Returns the path in a text. Raises `Refused` if the text is not the path of a checkpoint."""
    match = _PATH.fullmatch(text)
    if match is None or match[2] not in CHECKPOINT_TYPES:
        raise _not_a_path(text)
    return CheckpointPath(match[1], match[2], match[3])


def _not_a_path(text: str) -> Refused:
    return bad_request(
        f"{text!r} is not a checkpoint path; one looks like tinker://<run id>/<kind>/<name>, and "
        f"its kind is one of {', '.join(CHECKPOINT_TYPES)}"
    )

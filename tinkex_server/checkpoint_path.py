"""Names and paths of checkpoints: `tinker://<run id>/<kind>/<name>` on the wire, folders on the
disk.
"""

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
    """Where saved weights are."""

    run_id: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"tinker://{self.run_id}/{self.kind}/{self.name}"

    @property
    def checkpoint_id(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def folder_parts(self) -> tuple[str, ...]:
        """What its folder is named like."""
        return "checkpoints", self.run_id, self.kind, self.name


def check_name(name: str, field: str) -> str:
    """Raises `Refused` for a name that could not be a folder's or a path's part."""
    if not _NAME.fullmatch(name):
        raise malformed(
            field, message="must be 1 to 255 of A-Z a-z 0-9 . _ - and not begin with a dot"
        )
    return name


def parse(text: str) -> CheckpointPath:
    """Raises `Refused` for what is not the path of a checkpoint."""
    match = _PATH.fullmatch(text)
    if match is None or match[2] not in CHECKPOINT_TYPES:
        raise _not_a_path(text)
    return CheckpointPath(match[1], match[2], match[3])


def _not_a_path(text: str) -> Refused:
    return bad_request(
        f"{text!r} is not a checkpoint path; one looks like tinker://<run id>/<kind>/<name>, of "
        f"kind {', '.join(CHECKPOINT_TYPES)}"
    )

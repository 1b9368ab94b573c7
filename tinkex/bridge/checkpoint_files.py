"""The files that stand for checkpoints in a bridge: each names a checkpoint on the server behind
the bridge, and lies in the folder in which the embedded server would keep the weights.
"""

from __future__ import annotations

from pathlib import Path

import orjson
from attrs import asdict, frozen

FILE = "upstream.json"
"""The name of the file."""


@frozen
class UpstreamPath:
    """A checkpoint on a server behind the bridge."""

    url: str
    """The URL of the server."""
    path: str
    """The server's own path of the checkpoint."""


def write(saved: UpstreamPath, folder: Path) -> None:
    """Creates the folder, with the file."""
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(orjson.dumps(asdict(saved)))


def read(folder: Path) -> UpstreamPath:
    """Reads the file. Raises `OSError` or `ValueError`."""
    fields = orjson.loads((folder / FILE).read_bytes())
    return UpstreamPath(str(fields["url"]), str(fields["path"]))

"""Publishing a checkpoint, and the reverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tinkex.cli.checkpoint.lookup import suggesting_paths
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from tinkex import RestClient

FIELDS = ("path", "public")


def change(
    output: Output, rest: RestClient, path: str, call: Callable[[str], object], *, public: bool
) -> None:
    """Changes who may read a checkpoint, and writes who may."""
    with suggesting_paths(rest, path):
        call(path)
    output.record({"path": path, "public": public})
    output.status("Everybody may read it now." if public else "Only its owner may read it now.")

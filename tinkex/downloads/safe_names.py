"""Checks file names that a server chose: none may lead out of its folder, deceive a reader, or
collide with another on some disks.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

from attrs import define, field

from tinkex.errors import CheckpointDownloadError

_FORBIDDEN = re.compile(r"[\\\0]")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of characters that control a terminal or the direction of text."""


def is_root(name: str) -> bool:
    """Returns whether the name is that of the folder itself, with which some archives begin."""
    return not PurePosixPath(name).parts


def safe_path(name: str) -> Path:
    """Returns the name as a path within a folder. Raises `CheckpointDownloadError` for a name that
    leads out of the folder, or looks like another.
    """
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or ":" in path.parts[0]
        or _FORBIDDEN.search(name)
    ):
        raise CheckpointDownloadError(
            f"the checkpoint has a file {name!r:.200}, which would lie outside of its folder"
        )
    if any(unicodedata.category(letter) in _INVISIBLE for letter in name):
        raise CheckpointDownloadError(
            f"the checkpoint has a file {name!a:.200}, whose name has characters that control a "
            "terminal or the direction of text"
        )
    return Path(*path.parts)


@define(eq=False)
class SafeNames:
    """The names of one checkpoint's files. No two may differ only in case, or in how an accent is
    encoded.
    """

    _seen: dict[str, str] = field(factory=dict[str, str])

    def add(self, name: str) -> Path:
        """Returns the path of one more file or folder. Raises what `safe_path` does, and does so
        for a name that collides with an earlier one on some disks.
        """
        path = safe_path(name)
        for part in (path, *path.parents[:-1]):
            text = part.as_posix()
            folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
            if self._seen.setdefault(folded, text) != text:
                raise CheckpointDownloadError(
                    f"the checkpoint has files {self._seen[folded]!r:.200} and {text!r:.200}, "
                    "which are the same file on some disks"
                )
        return path

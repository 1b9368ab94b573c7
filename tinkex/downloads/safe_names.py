"""Names of files that others chose: none leads out of its folder, deceives a reader, or is
another's on some disks.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

from attrs import define, field

from tinkex.errors import CheckpointDownloadError

_ODD = re.compile(r"[\\\0]")
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that a terminal obeys, or that change the order of what is read."""


def is_root(name: str) -> bool:
    """Whether it is the folder itself, which some archives begin with."""
    return not PurePosixPath(name).parts


def safe_path(name: str) -> Path:
    """A path below any folder. Raises `CheckpointDownloadError` for a name that leads elsewhere, or
    is not as it looks.
    """
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or ":" in path.parts[0]
        or _ODD.search(name)
    ):
        raise CheckpointDownloadError(
            f"the checkpoint has a file {name!r:.200}, which would lie outside of its folder"
        )
    if any(unicodedata.category(letter) in _UNSEEN for letter in name):
        raise CheckpointDownloadError(
            f"the checkpoint has a file {name!a:.200}, whose name has signs that control a "
            "terminal or the direction of text"
        )
    return Path(*path.parts)


@define(eq=False)
class Names:
    """The names of one checkpoint: none differs from another by nothing but case, or by how an
    accent is written.
    """

    _seen: dict[str, str] = field(factory=dict[str, str])

    def safe(self, name: str) -> Path:
        """The path of one more file or folder. Raises as `safe_path`, and for a name that is
        another's on some disks.
        """
        path = safe_path(name)
        for part in (path, *path.parents[:-1]):
            text = part.as_posix()
            folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
            if self._seen.setdefault(folded, text) != text:
                raise CheckpointDownloadError(
                    f"the checkpoint has files {self._seen[folded]!r:.200} and {text!r:.200}, "
                    "which are one on some disks"
                )
        return path

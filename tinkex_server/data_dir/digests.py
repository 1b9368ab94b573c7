"""The digests of saved weights, by which the weights are checked whenever they are used.

They are in a file beside the weights, in the format of `sha256sum -c`. A folder that an older
release saved has no such file, and is not checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tinkex_server.engine.interface import InvalidRequest

FILE = ".sha256sums"
"""The name of the file. It begins with a dot, so it is not part of downloads."""


def seal(folder: Path) -> None:
    """Writes the digests of all files in a folder. A folder that has digests already, such as a
    copy, is checked by them.
    """
    if (folder / FILE).exists():
        check(folder)
        return
    lines = [
        f"{_sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir()) if file.is_file()
    ]
    (folder / FILE).write_text("".join(lines), "utf-8")


def check(folder: Path) -> None:
    """Raises `InvalidRequest`, naming the file, if one is missing or is not as it was saved.

    It reads all files.
    """
    check_files(folder, _sums(folder))


def check_exist(folder: Path) -> None:
    """Raises `InvalidRequest`, naming the file, if one is missing. It reads none of them."""
    for name in _sums(folder):
        _existing(folder / name)


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Raises `InvalidRequest` as `check` does, but looks only at the files named."""
    sums = _sums(folder)
    for name in names:
        if name not in sums:
            continue
        found = _sha256(_existing(folder / name))
        if found != sums[name]:
            raise _damaged(
                folder / name,
                f"is not as it was saved: its sha256 was {sums[name]}, and is now {found}",
            )


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise _damaged(file, "is missing")
    return file


def _damaged(file: Path, how: str) -> InvalidRequest:
    return InvalidRequest(
        f"{file.name} of the weights saved in {file.parent.name} {how}. Put the file back from a "
        "copy, or use another checkpoint"
    )


def _sums(folder: Path) -> Mapping[str, str]:
    """Returns the digests by file name, or nothing for a folder without digests. Raises
    `InvalidRequest` if they cannot be read.
    """
    try:
        lines = (folder / FILE).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(folder / FILE, f"cannot be read: {error}") from error
    pairs = [line.partition("  ")[::2] for line in lines]
    if not pairs or any(len(digest) != 64 or not name or "/" in name for digest, name in pairs):
        raise _damaged(folder / FILE, "is not as it was saved")
    return {name: digest for digest, name in pairs}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

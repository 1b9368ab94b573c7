"""Archives that mean harm come to nothing, and those of odd make come out whole."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.answering import Answer, answering
from tinkex import CheckpointDownloadError, Dialect
from tinkex.rest.extraction import Limits, safe_path, unpack

GENEROUS = Limits()
Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, linkname: str = "", size: int | None = None) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, linkname, len(data) if size is None else size
    return info, data


def tar_of(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if data else None)
    return buffer.getvalue()


def unpacked(
    folder: Path, archive: bytes, limits: Limits = GENEROUS, is_off: Callable[[], bool] = lambda: False
) -> dict[str, bytes]:
    content = folder / "content"
    content.mkdir()
    (folder / "archive.tar").write_bytes(archive)
    try:
        unpack(folder / "archive.tar", content, limits, is_off)
    finally:
        written = {str(path.relative_to(content)) for path in content.rglob("*")}
        assert not any(path.is_symlink() for path in content.rglob("*"))
        assert {path.name for path in folder.iterdir()} == {"content", "archive.tar"}, "nothing is outside"
    return {name: (content / name).read_bytes() for name in written if (content / name).is_file()}


SYM, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE

HOSTILE: dict[str, tuple[str, list[Member]]] = {
    "up": ("outside", [member("../evil", b"x")]),
    "up and down": ("outside", [member("a/../../evil", b"x")]),
    "up, as a folder": ("outside", [member("../evil", kind=tarfile.DIRTYPE)]),
    "absolute": ("outside", [member("/tmp/tinkex-evil", b"x")]),
    "a drive": ("outside", [member("C:/evil", b"x")]),
    "backslashes": ("outside", [member("..\\evil", b"x")]),
    "no name": ("outside", [member(".", b"x")]),
    "a link out": ("no file of the archive", [member("l", kind=SYM, linkname="/etc/passwd")]),
    "a link up": ("no file of the archive", [member("l", kind=SYM, linkname="../../../etc/passwd")]),
    "a hard link out": ("no file of the archive", [member("l", kind=HARD, linkname="/etc/passwd")]),
    "a link to itself": ("no file of the archive", [member("l", kind=SYM, linkname="l")]),
    "links in a ring": ("no file", [member("a", kind=SYM, linkname="b"), member("b", kind=SYM, linkname="a")]),
    "a link to a folder": ("no file", [member("d", kind=tarfile.DIRTYPE), member("l", kind=SYM, linkname="d")]),
    "through a link": ("no file", [member("l", kind=SYM, linkname="/tmp"), member("l/evil", b"x")]),
    "a device": ("neither a file nor a folder", [member("null", kind=tarfile.CHRTYPE)]),
    "a pipe": ("neither a file nor a folder", [member("pipe", kind=tarfile.FIFOTYPE)]),
    "twice": ("two members in one place", [member("a", b"1"), member("a", b"2")]),
    "a file as a folder": ("two members in one place", [member("a", b"1"), member("a/b", b"2")]),
    "a folder as a file": ("two members in one place", [member("a", kind=tarfile.DIRTYPE), member("a", b"2")]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_means_harm_is_refused(tmp_path: Path, name: str) -> None:
    words, members = HOSTILE[name]
    with pytest.raises(CheckpointDownloadError, match=words):
        unpacked(tmp_path, tar_of(*members))


def test_too_much_is_refused(tmp_path: Path) -> None:
    for limits, words in ((Limits(max_files=2), "more than 2"), (Limits(max_bytes=9), "more bytes than are allowed")):
        folder = tmp_path / words.replace(" ", "_")
        folder.mkdir()
        with pytest.raises(CheckpointDownloadError, match=words):
            unpacked(folder, tar_of(*(member(name, b"1234") for name in "abc")), limits)


def test_a_bomb_stops_at_the_limit_and_not_at_its_end(tmp_path: Path) -> None:
    bomb = gzip.compress(tar_of(member("zeros", bytes(64 * 2**20))))
    assert len(bomb) < 2**17
    with pytest.raises(CheckpointDownloadError, match="allowed"):
        unpacked(tmp_path, bomb, Limits(max_bytes=2**20))
    assert (tmp_path / "content" / "zeros").stat().st_size <= 2**20


def test_many_links_to_one_large_file_are_as_many_bytes(tmp_path: Path) -> None:
    links = [member(f"l{number}", kind=HARD, linkname="a") for number in range(50)]
    with pytest.raises(CheckpointDownloadError, match="allowed"):
        unpacked(tmp_path, tar_of(member("a", b"x" * 1000), *links), Limits(max_bytes=10_000))


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"<html>",
        b"\x1f\x8b broken",
        tar_of(member("a", b"x" * 2000))[:1500],
        gzip.compress(tar_of(member("a", b"x" * 2000)))[:-30],
    ],
    ids=["empty", "a page", "no gzip", "cut", "gzip, cut"],
)
def test_what_is_no_whole_tar_is_refused(tmp_path: Path, archive: bytes) -> None:
    with pytest.raises(CheckpointDownloadError, match="not a whole tar"):
        unpacked(tmp_path, archive)


def test_links_within_become_copies(tmp_path: Path) -> None:
    archive = tar_of(
        member("a/one", b"1"),
        member("a/two", kind=SYM, linkname="one"),
        member("three", kind=SYM, linkname="a/one"),
        member("four", kind=HARD, linkname="a/one"),
    )
    assert unpacked(tmp_path, archive) == {"a/one": b"1", "a/two": b"1", "three": b"1", "four": b"1"}


def test_modes_and_owners_do_not_come_along(tmp_path: Path) -> None:
    info, data = member("run-me", b"#!")
    info.mode, info.uid = 0o6777, 0
    unpacked(tmp_path, tar_of((info, data)))
    assert (tmp_path / "content" / "run-me").stat().st_mode & 0o7111 == 0


def test_one_that_is_called_off_writes_no_more(tmp_path: Path) -> None:
    assert unpacked(tmp_path, tar_of(member("a", b"1")), is_off=lambda: True) == {}


@given(st.text())
def test_a_safe_path_stays_below_its_folder(name: str) -> None:
    try:
        path = safe_path(name)
    except CheckpointDownloadError:
        return
    assert Path("/a/b").joinpath(path).parts[:3] == ("/", "a", "b")
    assert ".." not in path.parts


@pytest.mark.parametrize("name", ["up", "a link out", "a pipe"])
def test_of_a_hostile_download_nothing_is_kept(connect_rest: Callable[..., Any], tmp_path: Path, name: str) -> None:
    archive = tar_of(member("fine", b"1"), *HOSTILE[name][1])
    with answering(lambda call: Answer(200, archive)) as server, pytest.raises(CheckpointDownloadError):
        connect_rest(server.base_url, dialect=Dialect()).download_checkpoint("tinker://S1/weights/x", output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_names_files_elsewhere_is_refused(connect_rest: Callable[..., Any], tmp_path: Path) -> None:
    body = b'{"urls": {"../evil": "http://127.0.0.1:1/x"}, "expires": "2026-01-01"}'
    with answering(lambda call: Answer(200, body)) as server, pytest.raises(CheckpointDownloadError, match="outside"):
        connect_rest(server.base_url, dialect=Dialect()).download_checkpoint("tinker://S1/external_weights/x", output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []

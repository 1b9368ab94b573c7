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

from tests.support.answering_server import Answer, answering
from tinkex import CheckpointDownloadError, Dialect
from tinkex.downloads.extract import ArchiveLimits, unpack
from tinkex.downloads.safe_names import safe_path

GENEROUS = ArchiveLimits()
Member = tuple[tarfile.TarInfo, bytes]


def member(
    name: str,
    data: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    linkname: str = "",
    size: int | None = None,
) -> Member:
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
    folder: Path,
    archive: bytes,
    limits: ArchiveLimits = GENEROUS,
    is_off: Callable[[], bool] = lambda: False,
) -> dict[str, bytes]:
    content = folder / "content"
    content.mkdir()
    (folder / "archive.tar").write_bytes(archive)
    try:
        unpack(folder / "archive.tar", content, limits, is_off)
    finally:
        written = {str(path.relative_to(content)) for path in content.rglob("*")}
        assert not any(path.is_symlink() for path in content.rglob("*"))
        assert {path.name for path in folder.iterdir()} == {"content", "archive.tar"}, (
            "nothing is outside"
        )
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
    "a link out": ("is a link", [member("l", kind=SYM, linkname="/etc/passwd")]),
    "a hard link out": ("is a link", [member("l", kind=HARD, linkname="/etc/passwd")]),
    "a link within": ("is a link", [member("a", b"1"), member("l", kind=SYM, linkname="a")]),
    "a hard link within": ("is a link", [member("a", b"1"), member("l", kind=HARD, linkname="a")]),
    "an escape": ("control a terminal", [member("a\x1b[2Jb", b"x")]),
    "a line": ("control a terminal", [member("a\nb", b"x")]),
    "a direction": ("direction of text", [member("a\u202egpj.exe", b"x")]),
    "by case only": (
        "same file on some disks",
        [member("Model.bin", b"1"), member("model.bin", b"2")],
    ),
    "folders by case only": ("same file on some disks", [member("A/b", b"1"), member("a/c", b"2")]),
    "accents by form only": (
        "same file on some disks",
        [member("\u00e9", b"1"), member("e\u0301", b"2")],
    ),
    "a folder only": ("holds no file", [member("a", kind=tarfile.DIRTYPE)]),
    "sparse": ("neither a plain file", [member("s", kind=tarfile.GNUTYPE_SPARSE)]),
    "a device": ("neither a plain file nor a folder", [member("null", kind=tarfile.CHRTYPE)]),
    "a pipe": ("neither a plain file nor a folder", [member("pipe", kind=tarfile.FIFOTYPE)]),
    "twice": ("two members in one place", [member("a", b"1"), member("a", b"2")]),
    "a file as a folder": ("two members in one place", [member("a", b"1"), member("a/b", b"2")]),
    "a folder as a file": (
        "two members in one place",
        [member("a", kind=tarfile.DIRTYPE), member("a", b"2")],
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_malicious_members_are_refused(tmp_path: Path, name: str) -> None:
    words, members = HOSTILE[name]
    with pytest.raises(CheckpointDownloadError, match=words):
        unpacked(tmp_path, tar_of(*members))


def test_archives_beyond_the_limits_are_refused(tmp_path: Path) -> None:
    for limits, words in (
        (ArchiveLimits(max_files=2), "more than 2"),
        (ArchiveLimits(max_bytes=9), "more than the allowed 9 bytes"),
    ):
        folder = tmp_path / words.replace(" ", "_")
        folder.mkdir()
        with pytest.raises(CheckpointDownloadError, match=words):
            unpacked(folder, tar_of(*(member(name, b"1234") for name in "abc")), limits)


def test_a_bomb_stops_at_the_limit_and_not_at_its_end(tmp_path: Path) -> None:
    bomb = gzip.compress(tar_of(member("zeros", bytes(64 * 2**20))))
    assert len(bomb) < 2**17
    with pytest.raises(CheckpointDownloadError, match="allowed"):
        unpacked(tmp_path, bomb, ArchiveLimits(max_bytes=2**20))
    assert list((tmp_path / "content").iterdir()) == []


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
def test_truncated_or_invalid_tars_are_refused(tmp_path: Path, archive: bytes) -> None:
    with pytest.raises(CheckpointDownloadError, match="not a whole tar"):
        unpacked(tmp_path, archive)


@pytest.mark.parametrize("root", ["", ".", "./"])
def test_an_archive_may_begin_with_its_root(tmp_path: Path, root: str) -> None:
    assert unpacked(tmp_path, tar_of(member(root, kind=tarfile.DIRTYPE), member("./a", b"1"))) == {
        "a": b"1"
    }


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
def test_headers_of_more_than_some_kb_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(CheckpointDownloadError, match="headers of over 64 KiB"):
        unpacked(tmp_path, tar_of(member("h", b"x" * 100_000, kind), member("a", b"1")))


def test_names_of_some_hundred_letters_are_fine(tmp_path: Path) -> None:
    name = "/".join(["long" * 20] * 3)
    assert unpacked(tmp_path, tar_of(member(name, b"1"), member("a", b"2"))) == {
        name: b"1",
        "a": b"2",
    }


def test_an_archive_of_zeros_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointDownloadError, match="holds no file"):
        unpacked(tmp_path, bytes(20 * 512))


def test_the_compression_ratio_is_limited(tmp_path: Path) -> None:
    bomb = gzip.compress(tar_of(member("a", bytes(100 << 20))))
    assert len(bomb) < 1 << 20
    with pytest.raises(CheckpointDownloadError, match="expands to more bytes"):
        unpacked(tmp_path, bomb)


def test_modes_and_owners_are_not_extracted(tmp_path: Path) -> None:
    info, data = member("run-me", b"#!")
    info.mode, info.uid = 0o6777, 0
    unpacked(tmp_path, tar_of((info, data)))
    assert (tmp_path / "content" / "run-me").stat().st_mode & 0o7111 == 0


def test_a_cancelled_extraction_writes_nothing_more(tmp_path: Path) -> None:
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
def test_nothing_of_a_malicious_download_is_kept(
    connect_rest: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    archive = tar_of(member("fine", b"1"), *HOSTILE[name][1])
    with (
        answering(lambda call: Answer(200, archive)) as server,
        pytest.raises(CheckpointDownloadError),
    ):
        connect_rest(server.base_url, dialect=Dialect()).download_checkpoint(
            "tinker://S1/weights/x", output_dir=tmp_path
        )
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_names_files_elsewhere_is_refused(
    connect_rest: Callable[..., Any], tmp_path: Path
) -> None:
    body = b'{"urls": {"../evil": "http://127.0.0.1:1/x"}, "expires": "2026-01-01"}'
    with (
        answering(lambda call: Answer(200, body)) as server,
        pytest.raises(CheckpointDownloadError, match="outside"),
    ):
        connect_rest(server.base_url, dialect=Dialect()).download_checkpoint(
            "tinker://S1/external_weights/x", output_dir=tmp_path
        )
    assert list(tmp_path.iterdir()) == []

"""Downloads of checkpoints by signed URLs, as a whole or in parts."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from base64 import b64decode
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, location, saved, saved_folder, started
from tinkex.local import Server
from tinkex_server.access.signed_urls import BadSignature, Signer
from tinkex_server.data_dir import digests
from tinkex_server.routes import archives
from tinkex_server.wire import content
from tinkex_server.wire.content import FileChanged, of_folder, wanted_range


def test_an_archive_is_a_tar_of_the_checkpoint_s_files(api: Api) -> None:
    model_id, url = saved(api)
    response = api.http.get(f"{url}/archive")
    assert response.status_code == 302
    expires = parsedate_to_datetime(response.headers["expires"]).timestamp()
    assert parse_qs(urlsplit(response.headers["location"]).query)["expires"] == [str(int(expires))]

    answer = httpx.get(response.headers["location"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-tar")
    assert int(answer.headers["content-length"]) == len(answer.content)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # pyright: ignore[reportOptionalMemberAccess]
    assert files == {
        "adapter_model.safetensors": b"12345",
        "optimizer.safetensors": model_id.encode(),
    }


def test_a_download_can_be_checked_and_resumed(api: Api) -> None:
    url = location(api, saved(api)[1])
    whole = httpx.get(url)
    digest = whole.headers["repr-digest"].removeprefix("sha-256=:").removesuffix(":")
    assert b64decode(digest) == hashlib.sha256(whole.content).digest()
    assert whole.headers["accept-ranges"] == "bytes"

    rest = httpx.get(url, headers={"range": "bytes=700-", "if-range": whole.headers["etag"]})
    size = len(whole.content)
    assert (rest.status_code, rest.headers["content-range"]) == (
        206,
        f"bytes 700-{size - 1}/{size}",
    )
    assert (rest.content, rest.headers["repr-digest"]) == (
        whole.content[700:],
        whole.headers["repr-digest"],
    )
    other = httpx.get(url, headers={"range": "bytes=700-", "if-range": '"of another"'})
    assert (other.status_code, other.content) == (200, whole.content)
    beyond = httpx.get(url, headers={"range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")


def test_a_head_says_what_a_get_would_send_and_reads_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tar = saved(api)
    _, external = saved(api, kind="save_weights_external")
    urls = [f"{tar}/download", f"{external}/files/adapter_model.safetensors"]
    with monkeypatch.context() as patch:
        patch.delattr(content, "_read")
        before = [api.http.head(url, headers={"range": "bytes=1-2"}) for url in urls]
    for url, head in zip(urls, before, strict=True):
        whole, after = api.http.get(url), api.http.head(url)
        assert (head.status_code, head.content) == (200, b"")
        told = ("content-length", "content-type", "content-disposition", "accept-ranges")
        assert [head.headers[name] for name in told] == [whole.headers[name] for name in told]
        assert after.headers["repr-digest"] == whole.headers["repr-digest"], (
            "the ETag is known by then"
        )


def test_external_weights_are_fetched_file_by_file(api: Api) -> None:
    _, url = saved(api, kind="save_weights_external")
    answer = api.http.get(f"{url}/external_weights_urls").json()
    assert list(answer["urls"]) == ["adapter_model.safetensors"]
    assert answer["expires"] > "2026"
    file = httpx.get(answer["urls"]["adapter_model.safetensors"], headers={"range": "bytes=1-2"})
    assert (file.status_code, file.content) == (206, b"23")

    _, other = saved(api)
    assert api.http.get(f"{other}/external_weights_urls").status_code == 400
    assert api.http.get(f"{url}/files/nothing").status_code == 404


def test_a_signed_url_needs_no_key_and_holds_for_one_path_and_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with started(RecordingEngine(), api_key="tml-secret") as api:
        api.http.headers["x-api-key"] = "tml-secret"
        _, url = saved(api)
        archive = location(api, url)
        assert httpx.get(f"{api.http.base_url.join(url)}/download").status_code == 401
        assert httpx.get(archive).status_code == 200
        assert httpx.get(archive.replace("/one/", "/two/")).status_code == 403
        assert httpx.get(archive.replace("expires=", "expires=9")).status_code == 403
        assert httpx.post(archive.replace("/download", "/publish")).status_code == 401
        later = time.time() + 3601
        monkeypatch.setattr(
            "tinkex_server.access.authentication.time", SimpleNamespace(time=lambda: later)
        )
        expired = httpx.get(archive)
        assert (expired.status_code, "expired" in expired.text) == (403, True)


def test_a_signed_url_outlives_a_restart_but_not_its_checkpoint(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        _, url = saved(api)
        archive = urlsplit(location(api, url))
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        again = f"{archive.path}?{archive.query}"
        assert api.http.get(again).status_code == 200
        assert api.http.delete(url).status_code == 200
        assert api.http.get(again).status_code == 404


def test_an_archive_that_takes_long_is_503_until_it_is_there(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = saved(api)
    monkeypatch.setattr(archives, "_PATIENCE", 0)
    first = api.http.get(f"{url}/archive")
    assert (first.status_code, first.headers["retry-after"]) == (503, "2")
    monkeypatch.setattr(archives, "_PATIENCE", 10)
    assert api.http.get(f"{url}/archive").status_code == 302


def test_an_overwritten_checkpoint_is_read_again(api: Api, server: Server) -> None:
    model_id, url = saved(api)
    first = httpx.get(location(api, url))
    api.result(api.ok("save_weights", model_id=model_id, seq_id=2, path="one", overwrite=True))
    folder = saved_folder(server.data_dir, model_id, "weights", "one")
    (folder / "adapter_model.safetensors").write_bytes(b"67890")
    (folder / digests.FILE).unlink()
    second = httpx.get(location(api, url))
    assert (b"12345" in first.content, b"67890" in first.content) == (True, False)
    assert (b"12345" in second.content, b"67890" in second.content) == (False, True)
    assert second.headers["etag"] != first.headers["etag"]


def test_a_signature_is_for_one_path_and_one_time() -> None:
    signer = Signer(b"secret")
    query = {key: values[0] for key, values in parse_qs(signer.query("/a", 100)).items()}
    signer.check("/a", query, now=99)
    for path, changed, now in (
        ("/b", {}, 99),
        ("/a", {"expires": "101"}, 99),
        ("/a", {}, 100),
        ("/a", {"signature": ""}, 99),
    ):
        with pytest.raises(BadSignature):
            signer.check(path, {**query, **changed}, now)


@given(st.lists(st.integers(0, 3000), max_size=4), st.data())
def test_any_part_of_a_tar_is_what_the_whole_has_there(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("files")
    for number, size in enumerate(sizes):
        (folder / f"{number}").write_bytes(bytes([number + 1]) * size)
    tar = of_folder(folder, modified=7.5)
    whole = b"".join(tar.read(range(tar.size)))
    assert len(whole) == tar.size
    start = data.draw(st.integers(0, tar.size))
    stop = data.draw(st.integers(start, tar.size))
    assert b"".join(tar.read(range(start, stop))) == whole[start:stop]
    with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
        assert [member.size for member in opened] == sizes
        assert {member.mtime for member in opened.getmembers()} <= {7}


def test_a_large_file_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_PIECE", 10)
    (tmp_path / "a").write_bytes(bytes(95))
    tar = of_folder(tmp_path, modified=0)
    assert max(map(len, tar.read(range(512, 512 + 95)))) == 10
    (tmp_path / "a").write_bytes(bytes(94))
    with pytest.raises(FileChanged):
        list(tar.read(range(tar.size)))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-", range(100)),
        ("bytes=10-19", range(10, 20)),
        ("bytes=10-1000", range(10, 100)),
        ("bytes=-5", range(95, 100)),
        ("bytes=-500", range(100)),
        ("bytes=100-", range(100, 100)),
        ("bytes=-0", range(100, 100)),
        (None, None),
        ("bytes=-", None),
        ("bytes=20-10", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
    ],
)
def test_ranges(header: str | None, expected: range | None) -> None:
    assert wanted_range(header, 100) == expected

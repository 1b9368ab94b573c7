"""Checkpoints are downloaded whole or not at all, from servers that give them out in every way that
is known, over real sockets.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import logging
import mmap
import os
import random
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.answering_server import (
    NO_ROUTE,
    Answer,
    Answering,
    Call,
    answering,
    as_json,
)
from tests.support.archives import files_in, tar_of
from tests.support.clocks import NoPause
from tests.support.file_store import CONTENT, FOLDER, MIB, PATH, RUN, Store, stored
from tinkex import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    AsyncCheckpointDownload,
    AsyncRestClient,
    CheckpointDownload,
    CheckpointDownloadError,
    Config,
    Dialect,
    DownloadBar,
    InternalServerError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    PollSettings,
    RetrySettings,
    TinkexError,
    UnsupportedByServer,
    WaitTimeoutError,
    events,
)
from tinkex.claimed_folder import ClaimedFolder
from tinkex.dialects.table import DIALECTS
from tinkex.rest.external_weights import UploadURL

ROUTE = f"/api/v1/training_runs/{RUN}/checkpoints/sampler_weights/0001"
EXTERNAL = f"tinker://{RUN}/external_weights/e"
RETRY = RetrySettings(max_attempts=4, base_delay=0.0)


@pytest.fixture
def download(connect_rest: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Downloads by each facade in turn."""

    def download(
        base_url: str, path: str = PATH, *, settings: Mapping[str, Any] | None = None, **how: Any
    ) -> Path:
        given = {
            "retry": RETRY,
            "dialect": Dialect(),
            "default_headers": {"X-Secret": "x"},
            **(settings or {}),
        }
        return connect_rest(base_url, **given).download_checkpoint(path, output_dir=tmp_path, **how)

    return download


def nothing_is_left(tmp_path: Path) -> bool:
    return list(tmp_path.iterdir()) == []


@pytest.mark.rule(17)
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_that_a_redirect_leads_to(
    download: Callable[..., Path], tmp_path: Path, mode: str
) -> None:
    with stored(tar_of(CONTENT, mode), digests=True) as (_, _, server):
        folder = download(server.base_url)
    assert folder == tmp_path / FOLDER
    assert files_in(folder) == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]


@pytest.mark.rule(17)
def test_an_archive_that_a_url_in_the_answer_leads_to(download: Callable[..., Path]) -> None:
    with answering(Store({"/x": tar_of(CONTENT)})) as store:
        url = {"url": f"{store.base_url}/x?signature=1", "expires": "2026-01-01T01:00:00Z"}
        with answering(lambda call: as_json(url)) as server:
            assert files_in(download(server.base_url)) == CONTENT


def test_an_adapter_whose_settings_leave_its_modules_out_is_given_them(
    download: Callable[..., Path],
) -> None:
    table = json.dumps(
        {
            "base.layers.0.mlp.up_proj.lora_A.weight": {
                "dtype": "F32",
                "shape": [0],
                "data_offsets": [0, 0],
            }
        }
    ).encode()
    files = {
        "adapter_config.json": b'{"r": 4, "target_modules": null}',
        "adapter_model.safetensors": len(table).to_bytes(8, "little") + table,
    }
    with stored(tar_of(files)) as (_, _, server):
        folder = download(server.base_url)
    assert json.loads((folder / "adapter_config.json").read_text()) == {
        "r": 4,
        "target_modules": ["up_proj"],
    }


@pytest.mark.rule(17)
def test_an_archive_that_is_the_answer_itself(download: Callable[..., Path]) -> None:
    data = tar_of(CONTENT)
    store = Store({}, cuts=[3000])
    with answering(lambda call: store.whole_or_range(call, data)) as server:
        assert files_in(download(server.base_url)) == CONTENT
    assert len(server.calls) == 2
    assert {call.headers["x-api-key"] for call in server.calls} == {"tml-test"}


def test_an_archive_behind_a_route_of_the_server_itself_is_asked_for_with_the_key(
    download: Callable[..., Path],
) -> None:
    def answer(call: Call) -> Answer:
        if call.path.endswith("/archive"):
            return Answer(302, headers={"Location": f"{ROUTE}/download"})
        return Answer(200, tar_of(CONTENT)) if "x-api-key" in call.headers else Answer(401)

    with answering(answer) as server:
        assert files_in(download(server.base_url)) == CONTENT


def test_a_signed_url_of_the_server_itself_gets_no_key(download: Callable[..., Path]) -> None:
    def answer(call: Call) -> Answer:
        if call.path.endswith("/archive"):
            return Answer(302, headers={"Location": f"{ROUTE}/download?signature=1"})
        return Answer(403) if "x-api-key" in call.headers else Answer(200, tar_of(CONTENT))

    with answering(answer) as server:
        assert files_in(download(server.base_url)) == CONTENT


def table(store: Store, there: Answering, call: Call) -> Answer:
    assert call.path.endswith("/external_weights/e/external_weights_urls")
    urls = {name.removeprefix("/"): f"{there.base_url}{name}?{store.good}" for name in store.files}
    return as_json({"urls": urls, "expires": "2026-01-01T01:00:00Z"})


@pytest.mark.rule(17)
def test_files_by_a_table_of_urls(download: Callable[..., Path]) -> None:
    store = Store(
        {
            "/adapter_config.json": b'{"url": "not to be followed"}',
            "/deep/er/model.bin": b"w" * 5000,
        },
        cuts=[5, 100],
    )
    seen: list[tuple[int, int | None]] = []
    with answering(store) as there, answering(lambda call: table(store, there, call)) as server:
        folder = download(server.base_url, EXTERNAL, progress=lambda *how_far: seen.append(how_far))
    assert files_in(folder) == {name[1:]: data for name, data in store.files.items()}
    total = sum(map(len, store.files.values()))
    assert seen[0] == (0, None)
    assert seen[-1] == (total, total)


def test_expired_urls_are_renewed(download: Callable[..., Path]) -> None:
    store = Store({f"/{name}": bytes(3000) for name in "abc"}, cuts=[1000])

    def give_out(call: Call) -> Answer:
        answer = store(call)
        if answer.cut or call.path == "/b":
            store.good = f"signature=s{len(store.calls)}"  # the others are good no longer
        return answer

    with answering(give_out) as there, answering(lambda call: table(store, there, call)) as server:
        assert set(files_in(download(server.base_url, EXTERNAL))) == {"a", "b", "c"}
    assert len(server.calls) == 3, "at first, for the rest of a, for c"


def test_a_refusal_that_a_new_signature_does_not_help_is_final(
    download: Callable[..., Path], tmp_path: Path
) -> None:
    with (
        answering(lambda call: Answer(403, b"denied")) as there,
        answering(
            lambda call: Answer(302, headers={"Location": f"{there.base_url}/x?signature=2"})
        ) as server,
        pytest.raises(PermissionDeniedError, match="denied"),
    ):
        download(server.base_url)
    assert len(there.calls) == 2
    assert nothing_is_left(tmp_path)


def test_an_archive_that_is_being_built_is_waited_for(
    download: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = NoPause(monkeypatch)
    later = [
        Answer(425),
        as_json({"detail": "wait"}, 503, {"Retry-After": "7"}),
        *[as_json({}, 503, {"Retry-After": "3"})] * 20,
    ]

    def answer(call: Call) -> Answer:
        return later.pop(0) if later else Answer(200, tar_of(CONTENT))

    with answering(answer) as server:
        assert files_in(download(server.base_url)) == CONTENT
    assert sum(pause.seconds) > 60


def test_a_server_that_stays_away_is_given_up(
    download: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = NoPause(monkeypatch)
    with (
        answering(lambda call: as_json({"detail": "away"}, 503)) as server,
        pytest.raises(InternalServerError, match="away"),
    ):
        download(server.base_url)
    assert pause.seconds.count(30.0) == 6 * RETRY.max_attempts
    assert nothing_is_left(tmp_path)


def large_tar(file: Path, mib: int) -> memoryview:
    """Writes a tar of one file, no two MiB of which are alike; returns it mapped, not in memory."""
    block = random.Random(7).randbytes(MIB - 8)
    info = tarfile.TarInfo("model.bin")
    info.size = mib * MIB
    with file.open("wb") as tar:
        tar.write(info.tobuf())
        for number in range(mib):
            tar.write(number.to_bytes(8) + block)
        tar.write(bytes(1024))
    with file.open("rb") as tar:
        return memoryview(mmap.mmap(tar.fileno(), 0, prot=mmap.PROT_READ))


@pytest.mark.parametrize(
    "mib",
    [
        64,
        pytest.param(
            1024,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif("TINKEX_TEST_LARGE" not in os.environ, reason="a minute"),
            ],
        ),
    ],
)
def test_a_large_download_that_is_killed_three_times_is_resumed(
    download: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, mib: int
) -> None:
    """Only what a connection had not delivered when it died is sent twice."""
    data = large_tar(tmp_path_factory.mktemp("served") / "0001.tar", mib)
    cuts = [mib // 6 * MIB + 1, mib // 3 * MIB, mib // 12 * MIB]
    sizes: list[int] = []
    with stored(data, cuts=list(cuts), digests=True) as (store, _, server):
        folder = download(server.base_url, progress=lambda size, total: sizes.append(size))
        begins = [int(call.headers["range"][6:-1]) for call in store.calls[1:]]
    assert (folder / "model.bin").stat().st_size == mib * MIB
    ends = [start + cut for start, cut in zip([0, *begins], cuts, strict=False)]
    assert all(end - MIB < begin <= end for begin, end in zip(begins, ends, strict=True))
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(data)


def test_without_ranges_it_begins_anew(download: Callable[..., Path]) -> None:
    with stored(tar_of(CONTENT), ranges=False, cuts=[4000, 2000]) as (store, _, server):
        assert files_in(download(server.base_url)) == CONTENT
    assert len(store.calls) == 3


@pytest.mark.parametrize("etags", [True, False])
def test_bytes_of_two_archives_are_never_mixed(download: Callable[..., Path], etags: bool) -> None:
    first, second = tar_of({"a": b"1" * 3 * MIB}), tar_of({"a": b"2" * 4 * MIB})
    with stored(first, etags=etags, cuts=[2 * MIB]) as (store, _, server):
        store.arrived.clear()

        def rebuilt(size: int, total: int | None) -> None:
            if size and not store.arrived.is_set():
                store.files["/0001.tar"] = second
                store.arrived.set()

        assert files_in(download(server.base_url, progress=rebuilt)) == {"a": b"2" * 4 * MIB}
    assert "range" in store.calls[1].headers


def test_a_range_that_is_refused_makes_it_begin_anew(download: Callable[..., Path]) -> None:
    data = tar_of(CONTENT)
    store = Store({"/0001.tar": data}, cuts=[4000])

    def give_out(call: Call) -> Answer:
        return Answer(416) if "range" in call.headers else store(call)

    with (
        answering(give_out) as there,
        answering(
            lambda call: Answer(302, headers={"Location": f"{there.base_url}/0001.tar?signature=1"})
        ) as server,
    ):
        assert files_in(download(server.base_url)) == CONTENT


def test_attempts_without_progress_are_limited(
    download: Callable[..., Path], tmp_path: Path
) -> None:
    with stored(tar_of(CONTENT), cuts=[2000] * 2 + [0] * 100) as (store, _, server):
        with pytest.raises(APIConnectionError):
            download(server.base_url)
        assert len(store.calls) <= 2 + RETRY.max_attempts
    assert nothing_is_left(tmp_path)


def test_a_file_that_does_not_match_its_digest_is_fetched_once_more(
    download: Callable[..., Path], tmp_path: Path
) -> None:
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    for name, value in (
        ("Repr-Digest", f"sha-256=:{wrong}:"),
        ("Digest", f"SHA-256={wrong}"),
        ("x-amz-checksum-sha256", wrong),
    ):
        with (
            answering(
                lambda call, name=name, value=value: Answer(200, tar_of(CONTENT), {name: value})
            ) as server,
            pytest.raises(CheckpointDownloadError, match="digest"),
        ):
            download(server.base_url)
        assert len(server.calls) == 2
    assert nothing_is_left(tmp_path)


def test_a_digest_of_a_part_is_ignored(download: Callable[..., Path]) -> None:
    headers = {
        "x-amz-checksum-sha256": "AAAA-3",
        "x-goog-hash": "crc32c=AAAAAA==",
        "Digest": "unixsum=5",
    }
    with answering(lambda call: Answer(200, tar_of(CONTENT), headers)) as server:
        assert files_in(download(server.base_url)) == CONTENT


def test_a_folder_that_is_there_is_replaced_only_by_force(
    download: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "old").write_bytes(b"")
    with stored(tar_of(CONTENT)) as (_, _, server):
        with pytest.raises(InvalidInputError, match="exists already"):
            download(server.base_url)
        assert files_in(tmp_path / FOLDER) == {"old": b""}
        assert files_in(download(server.base_url, force=True)) == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]


def test_a_failure_leaves_what_was_there(download: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "old").write_bytes(b"")
    with (
        answering(lambda call: Answer(200, b"no tar")) as server,
        pytest.raises(CheckpointDownloadError, match="not a whole tar"),
    ):
        download(server.base_url, force=True)
    assert files_in(tmp_path) == {f"{FOLDER}/old": b""}


def test_an_exception_of_progress_ends_the_download(
    download: Callable[..., Path], tmp_path: Path
) -> None:
    def enough(size: int, total: int | None) -> None:
        raise KeyError("enough")

    with stored(tar_of(CONTENT)) as (_, _, server), pytest.raises(KeyError):
        download(server.base_url, progress=enough)
    assert nothing_is_left(tmp_path)


def test_a_place_that_cannot_be_written_to(
    download: Callable[..., Path], tmp_path: Path, connect_rest: Callable[..., Any]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        stored(tar_of(CONTENT)) as (_, _, server),
        pytest.raises(CheckpointDownloadError, match="cannot be written"),
    ):
        connect_rest(server.base_url, dialect=Dialect()).download_checkpoint(
            PATH, output_dir=tmp_path / "file" / "x"
        )


def test_servers_without_downloads_raise_unsupported(
    download: Callable[..., Path], tmp_path: Path
) -> None:
    with (
        answering(lambda call: NO_ROUTE) as server,
        pytest.raises(UnsupportedByServer, match="get_checkpoint_archive_url"),
    ):
        download(server.base_url)
    with (
        answering(lambda call: NO_ROUTE) as server,
        pytest.raises(UnsupportedByServer, match="save_weights_external") as caught,
    ):
        download(server.base_url, settings={"dialect": DIALECTS["hosted"]})
    assert server.calls == []
    with (
        answering(lambda call: as_json({"detail": "no such checkpoint"}, 404)) as server,
        pytest.raises(NotFoundError),
    ):
        download(server.base_url)
    assert len(server.calls) == 1
    assert nothing_is_left(tmp_path)
    assert caught.value.advice


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("file:///etc/passwd", UnsupportedByServer),  # TuFT names a file of its own disk
        ("ftp://host/x", APIResponseValidationError),
        ("/loop", APIResponseValidationError),
    ],
)
def test_a_redirect_that_leads_nowhere(
    download: Callable[..., Path], tmp_path: Path, location: str, kind: type[TinkexError]
) -> None:
    with (
        answering(lambda call: Answer(302, headers={"Location": location})) as server,
        pytest.raises(kind),
    ):
        download(server.base_url)
    assert nothing_is_left(tmp_path)


def test_the_archives_url(connect_rest: Callable[..., Any]) -> None:
    expires = "Thu, 01 Jan 2026 01:00:00 GMT"
    answers = iter(
        [
            Answer(302, headers={"Location": "https://storage/x?s=1", "Expires": expires}),
            as_json({"url": "https://storage/x?s=1", "expires": "2026-01-01T01:00:00"}),
            Answer(200, tar_of(CONTENT)),
        ]
    )
    with answering(lambda call: next(answers)) as server:
        rest = connect_rest(server.base_url, dialect=Dialect())
        redirected = rest.get_checkpoint_archive_url(RUN, "sampler_weights/0001")
        assert redirected == rest.get_checkpoint_archive_url_from_tinker_path(PATH)
        assert (redirected.url, redirected.expires.isoformat()) == (
            "https://storage/x?s=1",
            "2026-01-01T01:00:00+00:00",
        )
        itself = rest.get_checkpoint_archive_url(RUN, "sampler_weights/0001")
        assert itself.url == f"{server.base_url}{ROUTE}/archive"


def test_an_error_keeps_a_signature_to_itself(download: Callable[..., Path]) -> None:
    with (
        answering(
            lambda call: Answer(302, headers={"Location": "http://127.0.0.1:1/x?signature=secret"})
        ) as server,
        pytest.raises(APIConnectionError) as caught,
    ):
        download(server.base_url)
    assert "secret" not in str(caught.value)
    assert "http://127.0.0.1:1 " in str(caught.value)
    assert not isinstance(caught.value, APIStatusError)
    assert os.strerror(111) in str(caught.value)


SIGNATURE = "5e2c+0d/secret="
SIGNED = "X-Sig=5e2c%2B0d%2Fsecret%3D"


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(403, f"<Error><SignatureProvided>{SIGNATURE}</SignatureProvided></Error>".encode()),
        Answer(
            404, b"<html>there is no http://127.0.0.1/x?X-Sig=5e2c%2B0d%2Fsecret%3D here</html>"
        ),
        Answer(307, headers={"Location": "http://127.0.0.1:1/y?X-Sig=5e2c%2B0d%2Fsecret%3D"}),
        Answer(307, headers={"Location": "http://127.0.0.1:x/y?X-Sig=5e2c%2B0d%2Fsecret%3D"}),
        Answer(307, headers={"Location": "ftp://127.0.0.1/y?X-Sig=5e2c%2B0d%2Fsecret%3D"}),
        Answer(503),
        Answer(200, b"", {"Content-Length": "7", "Content-Encoding": "br"}),
        Answer(200, b"short", {"Content-Length": "many"}),
    ],
    ids=lambda answer: f"{answer.status} {list(answer.headers.values())[-1:]}",
)
def test_no_log_event_or_error_shows_a_signature(
    download: Callable[..., Path], caplog: pytest.LogCaptureFixture, refusal: Answer
) -> None:
    heard: list[events.Event] = []
    events.attach(heard.append)
    caplog.set_level(logging.DEBUG)
    for name in ("asyncio", "httpx", "tinkex"):
        caplog.set_level(logging.DEBUG, name)
    try:
        with answering(lambda call: refusal) as there:
            location = f"{there.base_url}/x?{SIGNED}"
            with (
                answering(lambda call: Answer(302, headers={"Location": location})) as server,
                pytest.raises(TinkexError) as caught,
            ):
                download(server.base_url)
    finally:
        events.detach(heard.append)
    assert there.calls
    error = caught.value
    seen = [
        caplog.text,
        str(error),
        repr(error),
        repr(getattr(error, "body", "")),
        *map(repr, heard),
    ]
    assert not [text for text in seen if "secret" in text]


def test_an_upload_that_fails_shows_no_signature(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "file").write_bytes(b"x")
    with answering(lambda call: Answer(403, SIGNATURE.encode())) as there:
        url = UploadURL(f"{there.base_url}/x?{SIGNED}")
        with pytest.raises(PermissionDeniedError) as caught:
            url.upload(tmp_path / "file")
    assert "HTTP Request: PUT" in caplog.text
    assert "secret" not in f"{caplog.text} {caught.value} {url!r}"


def test_an_adapter_that_peft_cannot_merge_is_told_with_what_to_do(
    download: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    for content, told in (
        (CONTENT, False),
        ({**CONTENT, "TIED_EMBEDDINGS.md": b"# How to merge"}, True),
    ):
        with stored(tar_of(content)) as (_, _, server), caplog.at_level("WARNING", "tinkex"):
            folder = download(server.base_url, force=True)
        assert (f"python -m tinkex.local.merge {folder} OUTPUT" in caplog.text) == told


def test_a_checkpoint_is_downloaded_in_one_call_without_a_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(lambda call: Answer(200, tar_of(CONTENT))) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.base_url)
        monkeypatch.setenv("TINKER_API_KEY", "tml-test")
        monkeypatch.chdir(tmp_path)
        config = Config(dialect=Dialect())
        assert CheckpointDownload.download(PATH, config=config) == Path(FOLDER)
        twice = AsyncCheckpointDownload.download(
            PATH, output_dir=tmp_path / "deep" / "er", config=config
        )
        assert files_in(asyncio.run(twice)) == files_in(tmp_path / FOLDER) == CONTENT


def test_a_bar_shows_how_far_it_is(download: Callable[..., Path]) -> None:
    drawn = io.StringIO()
    with (
        stored(tar_of(CONTENT)) as (_, _, server),
        DownloadBar("weights", Console(file=drawn, force_terminal=True, width=100)) as bar,
    ):
        bar(0, None)
        download(server.base_url, progress=bar)
    assert "weights" in drawn.getvalue()
    assert "10.2/10.2 kB" in drawn.getvalue()


def test_a_server_that_falls_silent_is_left_and_asked_for_the_rest(
    download: Callable[..., Path],
) -> None:
    with stored(tar_of({"a": bytes(3 * MIB)}), cuts=[2 * MIB]) as (store, _, server):
        store.arrived.clear()  # for the first answer
        folder = download(server.base_url, settings={"timeout": 0.3})
    assert files_in(folder) == {"a": bytes(3 * MIB)}
    assert "range" in store.calls[1].headers


def test_a_cancelled_download_leaves_nothing(tmp_path: Path) -> None:
    came = threading.Event()

    async def run(base_url: str) -> None:
        async with AsyncRestClient(
            Config(base_url=base_url, api_key="tml-test", dialect=Dialect())
        ) as rest:
            task = asyncio.create_task(
                rest.download_checkpoint(
                    PATH, output_dir=tmp_path, progress=lambda size, _: came.set() if size else None
                )
            )
            await asyncio.to_thread(came.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with stored(tar_of({"a": bytes(3 * MIB)}), cuts=[2 * MIB]) as (store, _, server):
        store.arrived.clear()
        asyncio.run(run(server.base_url))
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("times", [1, 3])
def test_a_download_that_is_cancelled_before_it_has_a_folder_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(parent: Path, prefix: str, purpose: str) -> ClaimedFolder:
        begun.set()
        assert go_on.wait(10)
        return make(parent, prefix, purpose)

    make = ClaimedFolder.make
    monkeypatch.setattr(ClaimedFolder, "make", slow)

    async def run() -> None:
        config = Config(base_url="http://127.0.0.1:1", api_key="tml-test", dialect=Dialect())
        async with AsyncRestClient(config) as rest:
            task = asyncio.create_task(rest.download_checkpoint(PATH, output_dir=tmp_path))
            await asyncio.to_thread(begun.wait)
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0.01)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert nothing_is_left(tmp_path)


def test_a_download_that_is_cancelled_while_unpacking_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over = threading.Event(), threading.Event()

    def slow(archive: Path, folder: Path, limits: object, is_off: Callable[[], bool]) -> None:
        begun.set()
        while not is_off():
            (folder / "more").write_bytes(b"more")
        over.set()

    monkeypatch.setattr("tinkex.downloads.download.unpack", slow)

    async def run(base_url: str) -> None:
        async with AsyncRestClient(
            Config(base_url=base_url, api_key="tml-test", dialect=Dialect())
        ) as rest:
            task = asyncio.create_task(rest.download_checkpoint(PATH, output_dir=tmp_path))
            await asyncio.to_thread(begun.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert over.is_set()

    with stored(tar_of(CONTENT)) as (_, _, server):
        asyncio.run(run(server.base_url))
    assert nothing_is_left(tmp_path)


def test_a_server_that_builds_the_archive_before_it_answers_may_be_silent_meanwhile(
    download: Callable[..., Path],
) -> None:
    def slow(call: Call) -> Answer:
        time.sleep(0.3)
        return Answer(200, tar_of(CONTENT))

    with answering(slow) as server:
        assert files_in(download(server.base_url, settings={"timeout": 0.1})) == CONTENT
    assert len(server.calls) == 1


def test_a_server_that_falls_silent_for_good_is_not_reported_as_a_full_disk(
    tmp_path: Path, download: Callable[..., Path]
) -> None:
    """Its error is a TimeoutError, which is an OSError."""
    off = threading.Event()

    def silent(call: Call) -> Answer:
        off.wait(10)
        return Answer(500)

    bounds = {"retry": RetrySettings(max_wait=0.5), "poll": PollSettings(max_wait=0.5)}
    with answering(silent) as server:
        with pytest.raises(WaitTimeoutError, match="did not come"):
            download(server.base_url, settings=bounds)
        off.set()
    assert nothing_is_left(tmp_path)


def test_a_download_that_is_cancelled_repeatedly_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def slow(archive: Path, folder: Path, limits: object, is_off: Callable[[], bool]) -> None:
        begun.set()
        while not is_off():
            time.sleep(0.001)
        time.sleep(0.2)
        (folder / "late").write_bytes(b"late")

    monkeypatch.setattr("tinkex.downloads.download.unpack", slow)

    async def run(base_url: str) -> None:
        async with AsyncRestClient(
            Config(base_url=base_url, api_key="tml-test", dialect=Dialect())
        ) as rest:
            task = asyncio.create_task(rest.download_checkpoint(PATH, output_dir=tmp_path))
            await asyncio.to_thread(begun.wait)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0.01)
            assert task.cancelled()

    with stored(tar_of(CONTENT)) as (_, _, server):
        asyncio.run(run(server.base_url))
    assert nothing_is_left(tmp_path)

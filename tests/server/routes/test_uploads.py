"""Uploads: an adapter from elsewhere is sent file by file, and becomes one checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, sample, started
from tinkex.local import Limits, gc

NEW = {"base_model": "fake/base", "lora_config": {"rank": 4}}
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Api]:
    with started(RecordingEngine(), api_key=["tml-ada", "tml-bob"], data_dir=tmp_path) as api:
        api.http.headers["x-api-key"] = "tml-ada"
        yield api


def begun(api: Api, **more: Any) -> dict[str, Any]:
    return api.ok("external_weights_upload_start", **{**NEW, **more})


def send(urls: dict[str, Any], **contents: bytes) -> None:
    """Sends each file to its URL, without a key."""
    for name, where in urls.items():
        content = contents.get(name.partition(".")[0], FILES[name])
        response = httpx.put(where["url"], content=content, headers=where.get("headers"))
        assert response.status_code == 200, response.text


def uploaded(api: Api, **more: Any) -> str:
    start = begun(api, **more)
    send(start["urls"])
    finish = api.ok("external_weights_upload_finish", upload_id=start["upload_id"])
    return finish["tinker_path"]


def test_an_uploaded_adapter_is_a_checkpoint_like_any_other(ours: Api) -> None:
    path = uploaded(ours, destination_project_id="p1")
    run_id, kind, name = path.removeprefix("tinker://").split("/")
    assert kind == "external_weights"
    assert "import_adapter fake/base 4" in [" ".join(map(str, call)) for call in ours.engine.calls]
    run = ours.get(f"training_runs/{run_id}").json()
    assert (run["base_model"], run["lora_rank"]) == ("fake/base", 4)
    [checkpoint] = ours.get("checkpoints").json()["checkpoints"]
    assert (checkpoint["tinker_path"], checkpoint["base_model"]) == (path, "fake/base")
    assert checkpoint["size_bytes"] == len(FILES["adapter_model.safetensors"])
    [session] = ours.ok("sessions/search", project_ids=["p1"])["sessions"]
    assert session["status"]["type"] == "client_finished"
    urls = ours.get(
        f"training_runs/{run_id}/checkpoints/{kind}/{name}/external_weights_urls"
    ).json()
    assert httpx.get(urls["urls"]["adapter_model.safetensors"]).content == b"weights"


def test_an_uploaded_adapter_is_sampled_and_trained(ours: Api) -> None:
    path = uploaded(ours)
    sampler = ours.sampler(model_path=path)
    assert ours.result(ours.ok("asample", **sample(sampler)))["sequences"]
    new = {"session_id": ours.session(), "model_seq_id": 0, "path": path, "optimizer": False}
    assert ours.result(ours.ok("load_weights", **new))["path"] == path


def test_finishing_again_makes_nothing_new(ours: Api) -> None:
    start = begun(ours)
    send(start["urls"])
    first = ours.ok("external_weights_upload_finish", upload_id=start["upload_id"])
    assert ours.ok("external_weights_upload_finish", upload_id=start["upload_id"]) == first
    assert len(ours.get("checkpoints").json()["checkpoints"]) == 1


def test_a_missing_file_is_named(ours: Api) -> None:
    start = begun(ours)
    urls = start["urls"]
    send({"adapter_config.json": urls["adapter_config.json"]})
    refused = ours.send("external_weights_upload_finish", upload_id=start["upload_id"])
    assert refused.status_code == 400
    assert "adapter_model.safetensors" in refused.text
    assert "adapter_config.json" not in refused.text
    send(urls)
    assert ours.ok("external_weights_upload_finish", upload_id=start["upload_id"])


def test_an_adapter_that_does_not_fit_leaves_nothing_behind(ours: Api) -> None:
    start = begun(ours)
    send(start["urls"], adapter_model=b"misfit")
    refused = ours.send("external_weights_upload_finish", upload_id=start["upload_id"])
    assert (refused.status_code, refused.json()["detail"]) == (
        400,
        "the uploaded weights do not fit",
    )
    assert ours.get("checkpoints").json()["checkpoints"] == []
    assert ours.get("sessions").json()["sessions"] == []
    send(start["urls"])  # the right ones
    assert ours.ok("external_weights_upload_finish", upload_id=start["upload_id"])


def test_other_keys_cannot_finish_or_send_to_an_upload(ours: Api) -> None:
    start = begun(ours)
    send(start["urls"])
    url = httpx.URL(start["urls"]["adapter_config.json"]["url"])
    unsigned = url.copy_with(query=None)
    assert httpx.put(unsigned, content=b"x").status_code == 401
    bob = {"x-api-key": "tml-bob"}
    assert httpx.put(unsigned, content=b"x", headers=bob).status_code == 404
    other = ours.http.post(
        f"{API}/external_weights_upload_finish", json={"upload_id": start["upload_id"]}, headers=bob
    )
    assert other.status_code == 404
    assert httpx.put(f"{url}0", content=b"x").status_code == 403  # another signature
    elsewhere = url.copy_with(path=url.path.replace("adapter_config.json", "upload.json"))
    assert httpx.put(elsewhere, content=b"x").status_code == 403


def test_an_upload_is_hidden_from_other_keys(ours: Api) -> None:
    start = begun(ours)
    send(start["urls"])
    ours.ok("external_weights_upload_finish", upload_id=start["upload_id"])
    other = ours.http.post(
        f"{API}/external_weights_upload_finish",
        json={"upload_id": start["upload_id"]},
        headers={"x-api-key": "tml-bob"},
    )
    assert other.status_code == 404


@pytest.mark.parametrize("upload_id", ["../checkpoints", "s-none", "", "a/b", "x" * 200])
def test_an_unknown_upload_is_404(ours: Api, upload_id: str) -> None:
    assert ours.send("external_weights_upload_finish", upload_id=upload_id).status_code == 404


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"base_model": "other/base"}, 400),
        ({"lora_config": {"rank": 0}}, 422),
        ({"lora_config": {"rank": 100_000}}, 422),
        (
            {
                "lora_config": {
                    "rank": 4,
                    "train_attn": False,
                    "train_mlp": False,
                    "train_unembed": False,
                }
            },
            422,
        ),
    ],
)
def test_an_unsupported_adapter_is_refused_before_files_are_sent(
    ours: Api, more: dict[str, Any], status: int
) -> None:
    assert ours.send("external_weights_upload_start", **{**NEW, **more}).status_code == status


def test_a_release_that_takes_bare_urls_gets_them(ours: Api) -> None:
    """Release 0.39 expects strings, 0.40 objects with headers."""
    old = {"x-stainless-package-version": "0.39.0"}
    start = ours.http.post(f"{API}/external_weights_upload_start", json=NEW, headers=old).json()
    assert all(isinstance(url, str) for url in start["urls"].values())


def test_the_size_of_a_file_is_limited(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path, limits=Limits(upload_bytes=1000)) as api:
        url = begun(api)["urls"]["adapter_model.safetensors"]["url"]
        assert httpx.put(url, content=bytes(1000)).status_code == 200
        assert httpx.put(url, content=bytes(1001)).status_code == 413
        assert httpx.put(url, content=iter([bytes(600), bytes(600)])).status_code == 413
        [folder] = (tmp_path / "uploads").iterdir()
        assert (folder / "adapter_model.safetensors").stat().st_size == 1000
        assert sorted(file.name for file in folder.iterdir()) == [
            "adapter_model.safetensors",
            "upload.json",
        ]


def test_uploads_outlive_a_restart_and_end_with_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        start, left = begun(api), begun(api)
        path = httpx.URL(start["urls"]["adapter_config.json"]["url"]).raw_path.decode()
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert api.http.put(path, content=b"{}").status_code == 200
    gc(tmp_path)
    ids = {start["upload_id"], left["upload_id"]}
    assert {folder.name for folder in (tmp_path / "uploads").iterdir()} == ids
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    gc(tmp_path)
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_expired_upload_accepts_nothing(ours: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    start = begun(ours)
    send(start["urls"])
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    over = ours.send("external_weights_upload_finish", upload_id=start["upload_id"])
    assert over.status_code == 410
    assert httpx.put(start["urls"]["adapter_config.json"]["url"], content=b"{}").status_code == 403

"""An adapter that was made elsewhere goes up in one call, and is sampled from and trained on."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_none

import tinkex
from tests.support.tls import small_proxy
from tinkex import (
    AdamParams,
    APIStatusError,
    BadRequestError,
    CheckpointSearchRequest,
    Config,
    Datum,
    InvalidInputError,
    LoraConfig,
    ModelInput,
    SamplingParams,
    UploadURL,
)
from tinkex.local import Server
from tinkex.transport.upload_settings import UploadSettings

MODEL = "tinkex/tiny"
IDS = [72, 105, 33, 40, 41, 42]
DATUM = Datum(ModelInput.from_ints(IDS[:-1]), {"target_tokens": IDS[1:], "weights": [1.0] * 5})


@pytest.fixture(scope="module")
def learned(
    torch_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    """The folder of a trained adapter, and the logprobs of `IDS` with it."""
    with tinkex.ServiceClient(torch_server.base_url, "tml-test") as service:
        trainer = service.create_lora_training_client(MODEL, rank=4, seed=1, train_unembed=False)
        for _ in range(3):
            trainer.forward_backward([DATUM], "cross_entropy")
            trainer.optim_step(AdamParams(learning_rate=1e-2))
        path = trainer.save_weights_external("w").result().path
        assert path
        logprobs = trainer.forward([DATUM], "cross_entropy").result().loss_fn_outputs[0]["logprobs"]
        folder = service.create_rest_client().download_checkpoint(
            path, output_dir=tmp_path_factory.mktemp("adapter")
        )
    return folder, logprobs.tolist()


def test_an_uploaded_adapter_gives_the_same_logprobs_as_before(
    connect_rest: Callable[..., Any], torch_server: Server, learned: tuple[Path, list[float]]
) -> None:
    folder, logprobs = learned
    told: list[tuple[int, int]] = []
    rest = connect_rest(torch_server.base_url)
    path = rest.upload_adapter(
        folder,
        base_model=MODEL,
        destination_project_id="p-up",
        progress=lambda *sent: told.append(sent),
    )
    total = sum(
        (folder / f"adapter_{name}").stat().st_size for name in ("config.json", "model.safetensors")
    )
    assert told[-1] == (total, total)
    [found] = rest.search_checkpoints(CheckpointSearchRequest(project_ids=["p-up"])).checkpoints
    assert (found.tinker_path, found.checkpoint_type, found.base_model) == (path, "external", MODEL)
    with tinkex.ServiceClient(torch_server.base_url, "tml-test") as service:
        sampler = service.create_sampling_client(model_path=path)
        scored = sampler.compute_logprobs(ModelInput.from_ints(IDS)).result()
        assert scored[1:] == pytest.approx(logprobs, abs=1e-4)
        assert sampler.sample(ModelInput.from_ints(IDS), 1, SamplingParams(max_tokens=2)).result()
        trainer = service.create_training_client_from_state(path)
        again = trainer.forward([DATUM], "cross_entropy").result().loss_fn_outputs[0]["logprobs"]
        assert again.tolist() == pytest.approx(logprobs, abs=1e-5)
    rest.delete_checkpoint_from_tinker_path(path)


def test_the_three_calls_of_the_official_client_work(
    connect_rest: Callable[..., Any], torch_server: Server, learned: tuple[Path, list[float]]
) -> None:
    rest = connect_rest(torch_server.base_url)
    shape = LoraConfig(rank=4, train_unembed=False)
    start = rest.external_weights_upload_start(base_model=MODEL, lora_config=shape)
    assert start.expires > datetime.now(UTC)
    for name, url in start.urls.items():
        url.upload(learned[0] / name)
    path = rest.external_weights_upload_finish(start.upload_id).tinker_path
    assert rest.get_weights_info_by_tinker_path(path).lora_rank == 4
    rest.delete_checkpoint_from_tinker_path(path)


def test_an_adapter_of_another_shape_is_refused_in_the_servers_words(
    connect_rest: Callable[..., Any], torch_server: Server, learned: tuple[Path, list[float]]
) -> None:
    shape = LoraConfig(rank=4, train_unembed=False, train_mlp=False)
    with pytest.raises(BadRequestError, match=r"mlp.*train_mlp"):
        connect_rest(torch_server.base_url).upload_adapter(
            learned[0], base_model=MODEL, lora_config=shape
        )


def spoiled(folder: Path, tmp_path: Path, name: str, content: bytes | None) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("adapter_config.json", None, "adapter_config.json cannot be read"),
        ("adapter_config.json", b"[]", "not a JSON object"),
        ("adapter_config.json", b"{}", "the adapter's rank"),
        ("adapter_config.json", json.dumps({"r": 4}).encode(), "names no base model"),
        ("adapter_model.safetensors", None, "adapter_model.safetensors cannot be read"),
        ("adapter_model.safetensors", b"\xff" * 20, "not a safetensors file"),
    ],
)
def test_a_folder_that_holds_no_adapter_is_refused_before_anything_is_sent(
    connect_rest: Callable[..., Any],
    learned: tuple[Path, list[float]],
    name: str,
    content: bytes | None,
    words: str,
    tmp_path: Path,
) -> None:
    folder = spoiled(learned[0], tmp_path, name, content)
    rest = connect_rest("http://127.0.0.1:9")
    with pytest.raises(InvalidInputError, match=words):
        rest.upload_adapter(folder)


def test_a_url_shows_no_signature() -> None:
    url = UploadURL("https://store.example.org/1?signature=abc", {"x-secret": "abc"})
    assert "abc" not in repr(url)
    assert "store.example.org/1" in repr(url)


@contextmanager
def store(*statuses: int) -> Iterator[tuple[str, list[bytes]]]:
    """A store that answers each PUT with the next status; 0 closes the connection. With its URL,
    and what came.
    """
    came: list[bytes] = []
    answers = iter(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            came.append(self.rfile.read(int(self.headers["Content-Length"])))
            status = next(answers)
            if status:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/file?signature=s", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_failed_upload_is_retried_with_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinkex.rest.external_weights._PAUSES", wait_none())
    content = bytes(range(256)) * 10_000  # more than one piece
    (tmp_path / "file").write_bytes(content)
    with store(503, 0, 200) as (url, came):
        UploadURL(url).upload(tmp_path / "file")
    assert came == [content] * 3


def test_a_store_that_refuses_is_asked_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with store(403, 200) as (url, came), pytest.raises(APIStatusError) as caught:
        UploadURL(url).upload(tmp_path / "file")
    assert caught.value.status_code == 403
    assert len(came) == 1
    assert "signature" not in str(caught.value)


def test_a_file_goes_through_the_proxy_of_the_client(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with small_proxy() as proxy:
        proxy.refusal = b"403 Forbidden"
        config = Config(
            base_url="http://127.0.0.1:1",
            api_key="tml-k",
            proxy=proxy.url.replace("://", "://me:pass@"),
        )
        url = UploadURL(
            "http://store.example.test/file?signature=s", settings=UploadSettings.of(config)
        )
        with pytest.raises(APIStatusError) as caught:
            url.upload(tmp_path / "file")
    assert caught.value.status_code == 403
    assert proxy.asked == ["PUT http://store.example.test/file?signature=s HTTP/1.1"]
    assert proxy.credentials == ["Proxy-Authorization: Basic bWU6cGFzcw=="]

"""Weights that are not as they were saved are refused with the name of the file, whatever they are
used for.
"""

# safetensors types some of its functions only in part
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.server_calls import API, Api, sample, saved_folder
from tinkex.local import Server
from tinkex_server.data_dir import digests
from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.torch.adapter_files import read_training_state

FILE = "adapter_model.safetensors"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


HARMS = [cut, zero, flip, Path.unlink]


def text_of(answer: httpx.Response) -> str:
    """Returns the error of a call, or of the request that it promises."""
    assert answer.status_code in (302, 400), answer.text
    return "" if answer.status_code == 302 else answer.json()["detail"]


def load(api: Api, model_id: str, name: str) -> str:
    body = {
        "model_id": model_id,
        "path": f"tinker://{model_id}/weights/{name}",
        "optimizer": True,
        "seq_id": 3,
    }
    return api.result(api.ok("load_weights", **body))["error"]


def resume(api: Api, model_id: str, name: str) -> str:
    body = {
        "session_id": api.session(),
        "model_seq_id": 0,
        "path": f"tinker://{model_id}/weights/{name}",
        "optimizer": True,
    }
    return api.result(api.ok("load_weights", **body))["error"]


def sampled(api: Api, model_id: str, name: str) -> str:
    sampler = api.sampler(model_path=f"tinker://{model_id}/sampler_weights/{name}")
    return api.result(api.ok("asample", **sample(sampler)))["error"]


def archive(api: Api, model_id: str, name: str) -> str:
    return text_of(api.get(f"training_runs/{model_id}/checkpoints/weights/{name}/archive"))


def one_file(api: Api, model_id: str, name: str) -> str:
    answer = api.get(f"training_runs/{model_id}/checkpoints/weights/{name}/files/{FILE}")
    return answer.json()["detail"]


def publish(api: Api, model_id: str, name: str) -> str:
    return text_of(
        api.http.post(f"{API}/training_runs/{model_id}/checkpoints/weights/{name}/publish")
    )


def copy(api: Api, model_id: str, name: str) -> str:
    path = f"tinker://{model_id}/weights/{name}"
    answer = api.send("copy_weights", source_path=path, session_id=api.session(), model_seq_id=0)
    return answer.text


USES = [load, resume, sampled, archive, one_file, publish, copy]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_a_damaged_file_is_refused_by_name(
    api: Api, server: Server, use: Callable[[Api, str, str], str], harm: Callable[[Path], None]
) -> None:
    model_id = api.model()
    api.result(api.ok("save_weights", model_id=model_id, seq_id=1, path="x"))
    api.result(api.ok("save_weights_for_sampler", model_id=model_id, seq_id=2, path="x"))
    folder = saved_folder(
        server.data_dir, model_id, "sampler_weights" if use is sampled else "weights", "x"
    )
    harm(folder / FILE)
    told = use(api, model_id, "x")
    assert FILE in told
    if not (use is one_file and harm is Path.unlink):  # there it is a file that there is not
        assert "is missing" if harm is Path.unlink else "is not as it was saved" in told
        assert "use another checkpoint" in told


def test_weights_of_an_older_release_without_digests_are_used(api: Api, server: Server) -> None:
    model_id = api.model()
    path = api.result(api.ok("save_weights", model_id=model_id, seq_id=1, path="x"))["path"]
    folder = saved_folder(server.data_dir, model_id, "weights", "x")
    (folder / digests.FILE).unlink()
    flip(folder / FILE)
    assert (
        api.result(api.ok("load_weights", model_id=model_id, path=path, optimizer=True, seq_id=2))[
            "path"
        ]
        == path
    )
    assert api.get(f"training_runs/{model_id}/checkpoints/weights/x/archive").status_code == 302


@pytest.mark.parametrize("text", ["", "no digests", "00  ../x\n"])
def test_damaged_digest_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / digests.FILE).write_text(text)
    with pytest.raises(InvalidRequest, match=rf"{digests.FILE}.*is not as it was saved"):
        digests.check(tmp_path)


def test_a_copy_has_the_digests_of_what_it_is_a_copy_of(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "a").write_bytes(b"1")
    digests.seal(first)
    shutil.copytree(first, second)
    digests.seal(second)
    flip(second / "a")
    with pytest.raises(
        InvalidRequest, match="a of the weights saved in second is not as it was saved"
    ):
        digests.seal(second)


@pytest.mark.parametrize(("value", "words"), [(0.0, "contains only zeros"), (float("nan"), "NaN")])
def test_impossible_weights_without_digests_are_refused(
    torch_server: Server, tmp_path: Path, value: float, words: str
) -> None:
    with httpx.Client(base_url=torch_server.base_url, timeout=30) as http:
        api: Any = Api(http, None)  # pyright: ignore[reportArgumentType]
        body = {
            "session_id": api.session(),
            "model_seq_id": 0,
            "base_model": "tinkex/tiny",
            "lora_config": {"rank": 4},
        }
        model_id = api.result(api.ok("create_model", **body))["model_id"]
        path = api.result(api.ok("save_weights", model_id=model_id, seq_id=1, path="x"))["path"]
        folder = saved_folder(torch_server.data_dir, model_id, "weights", "x")
        (folder / digests.FILE).unlink()
        tensors = load_file(folder / FILE)
        save_file(
            {name: torch.full_like(tensor, value) for name, tensor in tensors.items()},
            folder / FILE,
        )
        told = api.result(
            api.ok("load_weights", model_id=model_id, path=path, optimizer=False, seq_id=2)
        )
        assert words in told["error"], json.dumps(told)
        with pytest.raises(InvalidRequest, match=words):
            read_training_state(folder, optimizer=False)

"""`NAME=FOLDER`: a model on this machine under the name that programs ask for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.support.server_calls import saved_folder
from tinkex import ServiceClient
from tinkex.local import serve
from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.model_info import SHIPPED, describe, name_and_source

NAME = "meta-llama/Llama-3.2-1B"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED["tinkex/tiny"], tmp_path / "a=b" / "model"))


@pytest.mark.parametrize("engine", ["torch", "fake"])
def test_a_folder_is_served_by_the_name_that_programs_ask_for(
    folder: Path, tmp_path: Path, engine: Literal["torch", "fake"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(folder.parent)
    models = [f"{NAME}=./model", "tinkex/tiny"]
    with (
        serve(models, engine=engine, data_dir=tmp_path / "data") as server,
        ServiceClient(server.base_url, "tml-x") as service,
    ):
        offered = service.get_server_capabilities().supported_models
        assert [model.model_name for model in offered] == [NAME, "tinkex/tiny"]
        trainer = service.create_lora_training_client(NAME, rank=4)
        info = trainer.get_info()
        assert info.model_name == NAME
        assert info.model_data.tokenizer_id == str(folder)  # to a client on this machine
        assert trainer.get_tokenizer().decode([104, 105]) == "hi"
        trainer.save_state("x").result()
        if engine == "torch":
            saved = saved_folder(server.data_dir, trainer.model_id, "weights", "x")
            config: dict[str, Any] = json.loads((saved / "adapter_config.json").read_text())
            # which peft can load here, whatever the hub has
            assert config["base_model_name_or_path"] == str(folder)
        sampler = service.create_sampling_client(base_model=NAME)
        assert sampler.get_tokenizer().decode([104, 105]) == "hi"


def test_a_folder_with_a_sign_in_its_path_needs_no_name(folder: Path) -> None:
    assert name_and_source(str(folder)) == (str(folder), str(folder))
    assert name_and_source(f"n={folder}") == ("n", str(folder))
    assert describe(str(folder)).name == str(folder)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["=./model"], "write NAME=FOLDER"),
        ([f"{NAME}="], "write NAME=FOLDER"),
        ([f"{NAME}=tinkex/tiny", f"{NAME}=./other"], f"two models have the name '{NAME}'"),
        ([f"{NAME}=./nowhere"], "cannot find the model .*there is no folder nowhere"),
    ],
)
def test_what_names_no_model_is_refused(models: list[str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        serve(models)

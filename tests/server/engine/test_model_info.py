"""Base models are described by the files beside their weights, local or fetched from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from attrs import evolve

from tests.support.local_hub import hub_here
from tinkex_server.engine.interface import InvalidRequest, ModelInfo
from tinkex_server.engine.model_info import describe

TINY = Path(__file__).parents[3] / "tinkex" / "tiny"
CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 128, "vocab_size": 257}
COMMIT = "b" * 40  # the one that the hub of the tests says it has


def write(folder: Path, config: Any = CONFIG, **files: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    return folder


def test_the_shipped_model_and_its_folder_are_the_same() -> None:
    texts = [(TINY / f"{name}.json").read_text() for name in ("tokenizer", "tokenizer_config")]
    shipped = describe("tinkex/tiny")
    assert shipped == ModelInfo(
        "tinkex/tiny", 1024, 257, "Qwen3ForCausalLM", "tinkex/tiny", *texts, folder=str(TINY)
    )
    assert describe(str(TINY)) == evolve(shipped, name=str(TINY), tokenizer_id=str(TINY))


@pytest.mark.parametrize(
    "config",
    [
        {**CONFIG, "max_position_embeddings": None, "n_positions": 128},
        {
            "architectures": ["LlamaForCausalLM"],
            "text_config": {"max_position_embeddings": 128, "vocab_size": 257},
        },
    ],
)
def test_configurations_of_other_shapes(config: dict[str, Any], tmp_path: Path) -> None:
    folder = str(write(tmp_path / "model", config))
    assert describe(folder) == ModelInfo(
        folder, 128, 257, "LlamaForCausalLM", folder, None, folder=folder
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "cannot find the model '.*': Expecting"),
        ("[]", r"cannot find the model '.*': .*config\.json is not a JSON object"),
        (
            {**CONFIG, "architectures": None},
            "the config.json of the model '.*' lacks architectures",
        ),
        (
            {**CONFIG, "max_position_embeddings": None},
            "states no context length .max_position_embeddings, n_positions,",
        ),
        ({**CONFIG, "vocab_size": 0}, "lacks vocab_size"),
        ({**CONFIG, "is_encoder_decoder": True}, "is an encoder-decoder"),
        (
            {**CONFIG, "layer_types": ["indexed_attention", "full_attention"]},
            "has indexed_attention layers, which are not supported",
        ),
        (
            {**CONFIG, "quantization_config": {"quant_method": "mxfp4"}},
            r"is quantized .mxfp4., .*=Mxfp4Config.dequantize=True.*save_pretrained.FOLDER.",
        ),
        (
            {**CONFIG, "quantization_config": {"quant_method": "fp8"}},
            r"is quantized .fp8., .*=FineGrainedFP8Config.dequantize=True",
        ),
        (
            {**CONFIG, "quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"is quantized .gptq., .* Use the model that it was made from",
        ),
        (
            {**CONFIG, "text_config": {"quantization_config": {"load_in_4bit": True}}},
            "is quantized .bitsandbytes.,",
        ),
        (
            {**CONFIG, "rope_scaling": {"type": "longrope"}},
            "does not state that length .original_max_position_embeddings",
        ),
    ],
)
def test_an_incomplete_configuration_is_refused(config: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=words):
        describe(str(write(tmp_path / "model", config)))


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot find the model") as caught:
        describe(str(tmp_path))
    assert f"there is no {tmp_path / 'config.json'}, which each" in str(caught.value)


def test_a_model_of_the_hub_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_here() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        for name, files in {
            "org/model": ["config.json", "tokenizer.json", "model.safetensors"],
            "org/bare": ["config.json"],
        }.items():
            listed = [{"type": "file", "path": file, "size": 2, "oid": "0"} for file in files]
            hub.files[f"/api/models/{name}/revision/main"] = json.dumps(
                {"id": name, "sha": COMMIT}
            ).encode()
            hub.files[f"/api/models/{name}/tree/{COMMIT}"] = json.dumps(listed).encode()
            hub.files[f"/{name}/resolve/{COMMIT}/config.json"] = json.dumps(CONFIG).encode()
        hub.files[f"/org/model/resolve/{COMMIT}/tokenizer.json"] = b"{}"
        assert describe("org/model") == ModelInfo(
            "org/model", 128, 257, "LlamaForCausalLM", "org/model", "{}"
        )
        assert describe("org/bare").tokenizer_json is None
        with pytest.raises(InvalidRequest, match="cannot find the model 'org/other'"):
            describe("org/other")
    assert describe("org/model").arch == "LlamaForCausalLM", (
        "the hub is gone, and it is known all the same"
    )


def test_a_cached_model_of_the_hub_is_found_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--org--model"
    write(repository / "snapshots" / COMMIT, tokenizer="{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert describe("org/model") == ModelInfo(
        "org/model", 128, 257, "LlamaForCausalLM", "org/model", "{}"
    )
    (repository / "snapshots" / COMMIT / "tokenizer.json").unlink()
    assert describe("org/model").tokenizer_json is None
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequest, match="cannot find the model 'org/other'") as caught:
        describe("org/other")
    folder = tmp_path / "org" / "other"
    assert f"there is no folder {folder}, and the Hugging Face hub did not" in str(caught.value)


def test_a_name_that_the_hub_could_not_know_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot find the model 'no such/model/name'"):
        describe("no such/model/name")

"""Special tokens by the part they play: from the files beside a tokenizer.json, on disk, on a
server, on the hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

import tinkex.local
from tests.support.local_hub import Hub, hub_here
from tests.support.recording_engine import RecordingEngine
from tinkex import Tokenizer, TokenizerError, get_tokenizer
from tinkex.tokenizer.shared_loads import Loads
from tinkex_server.engine.interface import ModelInfo

WORDS = ("a", "b", "<s>", "</s>", "<pad>", "?")
SPECIAL = ("<s>", "</s>", "<pad>")
ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "?",
    "sep_token": None,
}
NO_ROLES = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "eos_token",
    "mask_token",
)


def tokenizer_json() -> str:
    """Returns the text of a tokenizer that puts <s> before a text."""
    backend = Backend(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="?"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.add_special_tokens(
        [AddedToken(token, special=True) for token in (*SPECIAL, "<|im_end|>")]
    )
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return backend.to_str()


def write(folder: Path, **files: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    for name, fields in files.items():
        (folder / f"{name}.json").write_text(
            fields if isinstance(fields, str) else json.dumps(fields)
        )
    return str(folder)


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinkex.tokenizer.lookup._loads", Loads())


def ids(tokenizer: Tokenizer) -> tuple[int | None, ...]:
    return (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
    )


def test_special_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    config = {**ROLES, "tokenizer_class": "PreTrainedTokenizerFast"}
    folder = write(tmp_path, tokenizer_config=config)
    ours, theirs = get_tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    names = [
        *(f"{role}_token" for role in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")),
        "vocab_size",
        "name_or_path",
    ]
    for name in [*names, *(f"{role}_id" for role in names[:7])]:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.special_tokens_map == theirs.special_tokens_map
    for tokens in ("b", "<|im_end|>", "no token", ["a", "</s>", "no token"]):
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_ids_to_tokens([0, 3]) == theirs.convert_ids_to_tokens([0, 3])
    assert ours.convert_ids_to_tokens(1) == theirs.convert_ids_to_tokens(1)
    assert ours("a b")["input_ids"] == theirs("a b")["input_ids"] == [2, 0, 1]
    assert ours(["a b", "b"]).attention_mask == theirs(["a b", "b"])["attention_mask"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config": ROLES}, (2, 3, 4, 5)),
        (
            {"tokenizer_config": {"eos_token": {"__type": "AddedToken", "content": "</s>"}}},
            (None, 3, None, None),
        ),
        (
            {"special_tokens_map": {"eos_token": {"content": "</s>"}, "bos_token": "<s>"}},
            (2, 3, None, None),
        ),
        (
            {
                "tokenizer_config": {"model_max_length": 9},
                "special_tokens_map": {"eos_token": "</s>"},
            },
            (None, 3, None, None),
        ),
        (
            {"tokenizer_config": {"eos_token": "</s>"}, "special_tokens_map": {"eos_token": "<s>"}},
            (None, 3, None, None),
        ),
        (
            {"tokenizer_config": {"eos_token": None}, "config": {"eos_token_id": 3}},
            (None, None, None, None),
        ),
        ({"config": {"eos_token_id": 3}}, (None, 3, None, None)),
        ({"config": {"eos_token_id": [3, 2]}}, (None, None, None, None)),
        ({"config": {"eos_token_id": 3000}}, (None, None, None, None)),
        ({"tokenizer_config": {"eos_token": "not in the vocabulary"}}, (None, None, None, None)),
        ({}, (None, None, None, None)),
    ],
)
def test_special_tokens_are_read_from_each_of_the_files(
    tmp_path: Path, files: dict[str, Any], expected: tuple[int | None, ...]
) -> None:
    assert ids(get_tokenizer(write(tmp_path, **files))) == expected


def test_without_such_a_file_special_tokens_are_known_by_name(tmp_path: Path) -> None:
    tokenizer = get_tokenizer(write(tmp_path))
    assert [getattr(tokenizer, name) for name in NO_ROLES] == [None] * len(NO_ROLES), (
        "nothing is guessed"
    )
    assert tokenizer.special_tokens == {"<s>": 2, "</s>": 3, "<pad>": 4, "<|im_end|>": 6}
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 6
    assert tokenizer.special_tokens_map == {}


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="cannot be read"):
        get_tokenizer(write(tmp_path, tokenizer_config="[]"))


def test_special_tokens_of_a_servers_model(connect: Callable[..., Any]) -> None:
    config = json.dumps(ROLES)
    known = ModelInfo("mine/a", 64, 100, "Fake", "mine/a", tokenizer_json(), config)
    bare = ModelInfo("mine/b", 64, 100, "Fake", "mine/b", tokenizer_json())
    engine = RecordingEngine(base_models=[known, bare])
    engine.gate.set()
    with tinkex.local.serve(engine=engine) as server:
        service = connect(server.base_url)
        found = [
            service.create_sampling_client(base_model=name).get_tokenizer()
            for name in ("mine/a", "mine/b")
        ]
    assert [ids(tokenizer) for tokenizer in found] == [(2, 3, 4, 5), (None, None, None, None)]


def test_special_tokens_of_the_shipped_model(
    torch_server: tinkex.local.Server, connect: Callable[..., Any]
) -> None:
    tokenizer = (
        connect(torch_server.base_url)
        .create_sampling_client(base_model="tinkex/tiny")
        .get_tokenizer()
    )
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (256, None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_here() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


def test_special_tokens_from_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    at = "/org/model/resolve/main/"
    hub.files = {
        f"{at}tokenizer.json": tokenizer_json().encode(),
        f"{at}tokenizer_config.json": json.dumps(ROLES).encode(),
    }
    assert ids(get_tokenizer("org/model")) == (2, 3, 4, 5)
    assert [path for command, path, _ in hub.asked if command == "GET"] == list(hub.files), (
        "and no file more"
    )
    monkeypatch.setattr("tinkex.tokenizer.lookup._loads", Loads())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert ids(get_tokenizer("org/model")) == (2, 3, 4, 5), "from what was fetched before"


def test_a_repository_without_special_tokens(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.files = {"/org/model/resolve/main/tokenizer.json": tokenizer_json().encode()}
    assert ids(get_tokenizer("org/model")) == (None, None, None, None)
    assert caplog.messages == [], "it is as it is"

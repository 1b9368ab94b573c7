"""Tokenizers: where they are looked for, in which order, and that each is loaded once."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.constants
import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerBase

import tinkex.local
from tests.support.local_hub import Hub, hub_here
from tests.support.recording_engine import RecordingEngine
from tinkex import Config, ModelInput, Tokenizer, TokenizerError, get_tokenizer
from tinkex.dialects.dialect import Dialect
from tinkex.session.model_tokenizer import model_tokenizer
from tinkex.tokenizer import names_of_tokenizer
from tinkex.tokenizer.shared_loads import AbandonedLoad, Loads
from tinkex.tokenizer.sources import SHIPPED
from tinkex.transport.transport import Transport
from tinkex_server.engine.interface import ModelInfo


def words_tokenizer(*words: str, padded: bool = False) -> str:
    """The text of a tokenizer.json whose tokens are these words, from 0."""
    backend = Backend(
        WordLevel({word: number for number, word in enumerate((*words, "?"))}, unk_token="?")
    )
    backend.pre_tokenizer = WhitespaceSplit()
    if padded:
        backend.enable_padding(length=8)
        backend.enable_truncation(2)
    return backend.to_str()


# ---- text and tokens ----


def test_text_becomes_tokens_and_back() -> None:
    tokenizer = get_tokenizer("tinkex/tiny")
    assert tokenizer.encode("hé") == tokenizer.encode_text("hé") == list("hé".encode())
    assert (
        tokenizer.decode(np.array(list("hé".encode())))
        == tokenizer.decode(list("hé".encode()))
        == "hé"
    )
    assert tokenizer.encode_batch(["a", "", "bc"]) == [[97], [], [98, 99]]
    assert ModelInput.from_text("hé", model_name="tinkex/tiny").to_ints() == list("hé".encode())


def test_ids_are_lists_as_programs_of_the_official_sdk_expect() -> None:
    tokenizer = get_tokenizer("tinkex/tiny")
    a, b = tokenizer.encode("ab"), tokenizer.encode("cd")
    assert a + b == [97, 98, 99, 100], "of equal length, which arrays would add element by element"
    assert a + [tokenizer.eos_token_id] == [97, 98, 256], "which arrays would add to each"  # noqa: RUF005 # programs do
    assert (json.dumps(a), bool(tokenizer.encode("")), a == [97, 98]) == ("[97, 98]", False, True)
    assert [type(ids) for ids in (a, *tokenizer.encode_batch(["ab"]))] == [list, list]
    assert {type(token) for token in a} == {int}


def test_encode_np_returns_the_same_ids() -> None:
    array = get_tokenizer("tinkex/tiny").encode_np("hé")
    assert (array.dtype, array.tolist()) == (np.int64, list("hé".encode()))


def test_a_tokenizer_can_be_called_like_one_of_transformers() -> None:
    tokenizer = get_tokenizer("tinkex/tiny")
    assert tokenizer("ab") == {"input_ids": [97, 98], "attention_mask": [1, 1]}
    assert (
        tokenizer(["ab", "c"])["input_ids"] == tokenizer(["ab", "c"]).input_ids == [[97, 98], [99]]
    )
    with pytest.raises(KeyError):
        tokenizer("ab")["token_type_ids"]


def test_its_repr_is_short() -> None:
    assert repr(get_tokenizer("tinkex/tiny")) == "<Tokenizer tinkex/tiny, 257 tokens>"


def test_it_survives_a_pickle() -> None:
    tokenizer = pickle.loads(pickle.dumps(get_tokenizer("tinkex/tiny")))
    assert (tokenizer.encode("a"), tokenizer.eos_token_id, tokenizer.name_or_path) == (
        [97],
        256,
        "tinkex/tiny",
    )


def test_transformers_gets_the_same_tokenizer(tmp_path: Path) -> None:
    """It keeps its special tokens, its chat template and the name by which it was loaded."""
    (tmp_path / "tokenizer.json").write_text(words_tokenizer("a", "b", "end"))
    own = {"eos_token": "end", "chat_template": "{{ messages[0]['content'] }} b"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    tokenizer = get_tokenizer(str(tmp_path))
    for given in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        made = given.to_transformers()
        assert isinstance(made, PreTrainedTokenizerBase)
        assert made.encode("b a") == tokenizer.encode("b a") == [1, 0]
        assert (made.eos_token, made.eos_token_id, len(made)) == ("end", 2, len(tokenizer))
        assert made.name_or_path == str(tmp_path)
        chat = [{"role": "user", "content": "a"}]
        assert made.apply_chat_template(chat, tokenize=False) == "a b"


def test_transformers_gets_the_template_of_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(words_tokenizer("a"))
    (tmp_path / "chat_template.jinja").write_text("from a file")
    made = get_tokenizer(str(tmp_path)).to_transformers()
    assert made.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == (
        "from a file"
    )


def test_a_text_is_never_cut_or_padded_whatever_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(words_tokenizer("a", "b", padded=True))
    tokenizer = get_tokenizer(str(tmp_path))
    assert tokenizer.encode("a b a") == [0, 1, 0]
    assert tokenizer.encode_batch(["a b a", "b"])[1] == [1]


def test_threads_may_use_one_at_once() -> None:
    tokenizer, wrong = get_tokenizer("tinkex/tiny"), []

    def use(text: str) -> None:
        for _ in range(50):
            if tokenizer.decode(tokenizer.encode(text)) != text:
                wrong.append(text)

    threads = [threading.Thread(target=use, args=(f"text {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- where it is looked for ----


@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_folder_or_a_file(tmp_path: Path, given: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(words_tokenizer("a", "b"))
    assert get_tokenizer(str(tmp_path if given == "folder" else path)).encode("b a") == [1, 0]


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read") as caught:
        get_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_here() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("tinkex.tokenizer.lookup._loads", Loads())
        yield hub


def again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what is loaded, so that the next lookup is as in another process."""
    monkeypatch.setattr("tinkex.tokenizer.lookup._loads", Loads())


def test_a_mirror_of_the_hub_by_revision(hub: Hub) -> None:
    hub.files = {
        "/org/model/resolve/main/tokenizer.json": words_tokenizer("a", "b").encode(),
        "/org/model/resolve/v2/tokenizer.json": words_tokenizer("b", "a").encode(),
    }
    assert get_tokenizer("org/model").encode("a b") == [0, 1]
    assert get_tokenizer("org/model", revision="v2").encode("a b") == [1, 0]
    assert get_tokenizer("org/model:variant:32k").encode("a b") == [0, 1], (
        "what follows a : is no part of the id"
    )


def test_a_gated_repository_needs_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = {"/gated/model/resolve/main/tokenizer.json": words_tokenizer("a").encode()}
    with pytest.raises(TokenizerError, match="HF_TOKEN") as caught:
        get_tokenizer("gated/model")
    assert "hf-good" not in str(caught.value)
    again(monkeypatch)
    assert get_tokenizer("gated/model", token="hf-good").encode("a") == [0]


def test_without_the_hub_what_was_fetched_before_is_taken(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {"/org/model/resolve/main/tokenizer.json": words_tokenizer("a").encode()}
    get_tokenizer("org/model")
    again(monkeypatch)
    asked = len(hub.asked)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert get_tokenizer("org/model").encode("a") == [0]
    assert len(hub.asked) == asked
    with pytest.raises(
        TokenizerError, match="HF_HUB_OFFLINE is set, and the tokenizer is not in the local"
    ):
        get_tokenizer("org/other")


def test_a_machine_without_a_network_is_told_so_quickly_and_not_twice(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(TokenizerError, match=r"no answer \(") as caught:
            get_tokenizer("org/model")
    assert time.monotonic() - began < 5
    assert [line.partition(":")[0] for line in caught.value.tried] == [
        "the folder or file org/model",
        "http",
    ]


def test_the_error_says_what_was_tried_in_order(hub: Hub) -> None:
    with pytest.raises(TokenizerError) as caught:
        get_tokenizer("bare/model")
    assert "\n  1. the folder or file bare/model: there is no bare/model" in str(caught.value)
    assert f"\n  2. {hub.url}/bare/model: the repository has no tokenizer.json" in str(caught.value)
    assert "save_pretrained" in str(caught.value)


def test_gated_models_use_an_open_copy_of_their_tokenizer(hub: Hub) -> None:
    path = "/thinkingmachineslabinc/meta-llama-3-tokenizer/resolve/main/tokenizer.json"
    hub.files = {path: words_tokenizer("a").encode()}
    assert get_tokenizer("meta-llama/Llama-3.1-8B").encode("a") == [0]


@pytest.mark.rule(14)
@pytest.mark.parametrize(
    ("tokenizer_id", "models", "names"),
    [
        ("org/tok:variant", ["org/model", None, "asked"], ["org/tok", "org/model", "asked"]),
        (None, [None, None, "asked"], ["asked"]),
        ("", ["m:1", "m:2"], ["m"]),
    ],
)
def test_the_names_that_a_tokenizer_goes_by(
    tokenizer_id: str | None, models: list[str | None], names: list[str]
) -> None:
    assert names_of_tokenizer(tokenizer_id, models) == names


# ---- from the server ----


@pytest.fixture
def word_server(hub: Hub) -> Iterator[tinkex.local.Server]:
    """Gives the tokenizer of one of its models, which no hub has."""
    of_words = ModelInfo(
        "mine/words", 64, 100, "Fake", "mine/words", tokenizer_json=words_tokenizer("a", "b")
    )
    without = ModelInfo("mine/bare", 64, 100, "Fake", "mine/bare")
    engine = RecordingEngine(base_models=[of_words, without])
    engine.gate.set()
    with tinkex.local.serve(engine=engine) as server:
        yield server


def test_the_embedded_server_gives_its_models_tokenizers(
    connect: Callable[..., Any], word_server: tinkex.local.Server, hub: Hub
) -> None:
    service = connect(word_server.base_url)
    trainer = service.create_lora_training_client("mine/words", rank=4)
    sampler = service.create_sampling_client(base_model="mine/words")
    for tokenizer in (trainer.get_tokenizer(), sampler.get_tokenizer()):
        assert tokenizer.encode("b a") == [1, 0]
    assert sampler.sample("a b", 1, {"max_tokens": 1}).result().sequences
    assert hub.asked == []


def test_a_model_whose_server_has_none_is_looked_for_on_the_hub(
    connect: Callable[..., Any], word_server: tinkex.local.Server, hub: Hub
) -> None:
    with pytest.raises(TokenizerError) as caught:
        connect(word_server.base_url).create_lora_training_client(
            "mine/bare", rank=4
        ).get_tokenizer()
    assert [line.partition(": ")[0] for line in caught.value.tried] == [
        "the folder or file mine/bare",
        f"the server {word_server.base_url}",
        f"{hub.url}/mine/bare",
    ]


def test_the_torch_engine_gives_the_tokenizer_that_it_uses(
    torch_server: tinkex.local.Server,
) -> None:
    import httpx

    given = httpx.get(
        f"{torch_server.base_url}/api/v1/tokenizer", params={"base_model": "tinkex/tiny"}
    ).json()["tokenizer_json"]
    shipped = Backend.from_file(str(SHIPPED["tinkex/tiny"]))
    assert Backend.from_str(given).encode("héllo").ids == shipped.encode("héllo").ids


# ---- once ----


def test_64_threads_that_ask_together_wait_for_one_load() -> None:
    loads: Loads[object] = Loads()
    calls, all_asking = [], threading.Barrier(64)

    def load() -> object:
        calls.append(1)
        time.sleep(0.05)  # as a file does
        return object()

    def ask() -> None:
        all_asking.wait()
        given.append(loads.get("name", load))

    given: list[object] = []
    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(calls), len(given), len(set(map(id, given)))) == (1, 64, 1)


def test_64_threads_get_the_same_tokenizer_from_the_hub(hub: Hub) -> None:
    hub.files = {"/org/model/resolve/main/tokenizer.json": words_tokenizer("a").encode()}
    given: list[Tokenizer] = []
    threads = [
        threading.Thread(target=lambda: given.append(get_tokenizer("org/model"))) for _ in range(64)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(tokenizer) for tokenizer in given}) == 1
    assert [command for command, path, _ in hub.asked if command == "GET"] == ["GET"]


def test_a_failure_is_remembered_for_a_minute() -> None:
    now = [0.0]
    loads: Loads[str] = Loads(now=lambda: now[0])
    answers: list[Any] = [TokenizerError("not now"), "here"]

    def load() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    for time_now in (0.0, 30.0, 59.0):
        now[0] = time_now
        with pytest.raises(TokenizerError, match="not now"):
            loads.get("name", load)
    now[0] = 61.0
    assert loads.get("name", load) == loads.get("name", load) == "here"
    assert loads.ready("name") == "here"
    assert loads.ready("other") is None


def test_a_load_whose_caller_is_gone_is_done_by_one_that_waits() -> None:
    loads: Loads[str] = Loads()
    begun, waiting = threading.Event(), threading.Event()

    def abandon() -> str:
        begun.set()
        waiting.wait(20)
        time.sleep(0.05)  # until the other has asked
        raise AbandonedLoad

    def ask() -> None:
        waiting.set()
        given.append(loads.get("name", lambda: "here"))

    def give_up() -> None:
        with suppress(AbandonedLoad):
            loads.get("name", abandon)

    given: list[str] = []
    threads = [threading.Thread(target=give_up), threading.Thread(target=ask)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join(20)
    assert given == ["here"]


def test_a_client_whose_loop_ends_leaves_the_tokenizer_to_the_next(hub: Hub) -> None:
    answers = False

    async def answer(request: httpx.Request) -> httpx.Response:
        if not answers:
            await asyncio.Event().wait()
        return httpx.Response(200, json={"tokenizer_json": words_tokenizer("a", "b")})

    async def ask() -> Tokenizer:
        transport = Transport(
            Config(
                base_url="http://127.0.0.1:9",
                api_key="k",
                dialect=Dialect(serves_tokenizers=True),
                http_transport=httpx.MockTransport(answer),
            )
        )
        return await model_tokenizer(transport, "mine/words", ["mine/words"])

    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(ask(), 0.3))
    answers = True
    assert asyncio.run(ask()).encode("b a") == [1, 0]
    assert hub.asked == []


def test_few_tokenizers_are_cached() -> None:
    loads: Loads[int] = Loads()
    for number in range(40):
        loads.get(number, lambda number=number: number)
    assert (loads.ready(0), loads.ready(39)) == (None, 39)


def test_an_event_loop_goes_on_while_a_tokenizer_is_loaded(
    word_server: tinkex.local.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from the server through the very loop that waits for it."""

    async def main() -> list[Tokenizer]:
        async with tinkex.AsyncServiceClient(base_url=word_server.base_url, api_key="k") as service:
            sampler = await service.create_sampling_client(base_model="mine/words")
            return await asyncio.gather(*(sampler.get_tokenizer() for _ in range(40)))

    assert len({id(tokenizer) for tokenizer in asyncio.run(main())}) == 1

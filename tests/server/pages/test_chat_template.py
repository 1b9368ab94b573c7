"""The chat templates of models in the playground, compared with those of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import evolve

from tests.client.data.chat_tokenizers import CHATML, INSTRUCT, REASONING, chat_tokenizer
from tests.server.pages.test_changes import events
from tinkex.local import serve
from tinkex_server.engine.fake import FakeEngine
from tinkex_server.engine.interface import ModelInfo
from tinkex_server.engine.model_info import tokenizer_files
from tinkex_server.errors import Refused
from tinkex_server.pages.chat_template import chat_prompt, has_chat_template
from tinkex_server.pages.token_text import vocabulary

Describe = Callable[..., ModelInfo]
ODD = """\
{%- for message in messages %}
    {%- if message.role != 'user' %}{% continue %}{% endif %}
    {{- bos_token ~ ({'text': message.content, 'tools': tools} | tojson) }}
{%- endfor %}
"""
"""A template that needs what transformers adds to jinja2."""


@pytest.fixture
def describe(tmp_path: Path) -> Describe:
    """Describes a model with a tokenizer of this template."""

    def describe(template: str, *, beside: bool = True) -> ModelInfo:
        chat_tokenizer(tmp_path, template, beside=beside)
        return ModelInfo("chatty", 64, 263, "None", "chatty", *tokenizer_files(tmp_path))

    return describe


@pytest.mark.parametrize("template", [CHATML, INSTRUCT, REASONING, ODD])
@pytest.mark.parametrize("beside", [True, False])
def test_a_message_becomes_the_tokens_of_transformers(
    describe: Describe, tmp_path: Path, template: str, beside: bool
) -> None:
    model = describe(template, beside=beside)
    assert has_chat_template(model)
    message = "Grüße <b>\n2 + 2?"
    reference: Any = (
        chat_tokenizer(tmp_path, template, beside=beside)
        .to_transformers()
        .apply_chat_template(
            [{"role": "user", "content": message}], add_generation_prompt=True, return_dict=True
        )
    )
    prompt = chat_prompt(model, message)
    assert list(vocabulary(model).encode(prompt, rendered=True)) == reference["input_ids"]


def test_a_rendered_prompt_gets_no_second_beginning_of_text(describe: Describe) -> None:
    model = describe(INSTRUCT)
    tokenizer = json.loads(str(model.tokenizer_json))
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    tokenizer["post_processor"]["single"].insert(0, begin)
    tokenizer["post_processor"]["special_tokens"] = {
        "<s>": {"id": "<s>", "ids": [259], "tokens": ["<s>"]}
    }
    words = vocabulary(evolve(model, tokenizer_json=json.dumps(tokenizer)))
    assert list(words.encode("a")).count(259) == 1
    prompt = chat_prompt(model, "a")
    assert list(words.encode(prompt, rendered=True)).count(259) == 1


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no system prompt') }}", "no system prompt"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_a_template_that_fails_is_refused_with_its_words(
    describe: Describe, template: str, words: str
) -> None:
    with pytest.raises(Refused, match=words) as refused:
        chat_prompt(describe(template), "a")
    assert "the chat template of 'chatty'" in str(refused.value.detail)


@pytest.mark.parametrize("settings", [None, "{", "[]", "{}", '{"chat_template": []}'])
def test_without_a_template_there_is_none(settings: str | None) -> None:
    model = ModelInfo("plain", 64, 263, "None", "plain", None, settings)
    assert not has_chat_template(model)
    with pytest.raises(Refused, match="no chat template"):
        chat_prompt(model, "a")


def test_the_playground_samples_what_the_template_makes_of_a_message(tmp_path: Path) -> None:
    chat_tokenizer(tmp_path, CHATML)
    engine = FakeEngine(["plain/one", f"chatty/one={tmp_path}"])
    with serve(engine=engine) as server, httpx.Client(base_url=server.base_url) as http:
        page = http.get("/playground").text
        assert '<option value="plain/one">' in page
        assert '<option value="chatty/one" data-chat>' in page
        ask = {"weights": "chatty/one", "prompt": "hi", "max_tokens": 2}
        plain, chat = (prompt_of(http, {**ask, "chat": chat}) for chat in (False, True))
    assert plain == ("hi", 2)
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert chat == (text, len("user\nhi\nassistant\n") + 3)


def prompt_of(http: httpx.Client, ask: dict[str, Any]) -> tuple[str, int]:
    first, *_, last = events(http.post("/playground/sample", json=ask))
    return first["prompt"], last["prompt_tokens"]

"""The chat template of a model comes from a server with its tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.client.data.chat_tokenizers import CHATML, chat_tokenizer
from tinkex import ServiceClient
from tinkex.data import chat_template
from tinkex.local import serve
from tinkex_server.engine.fake import FakeEngine


@pytest.mark.parametrize("beside", [True, False])
def test_a_template_reaches_clients_wherever_the_model_has_it(tmp_path: Path, beside: bool) -> None:
    """Else they would train on chats of the plain form, without a word."""
    chat_tokenizer(tmp_path, CHATML, beside=beside)
    name = f"served/chatty-{beside}"  # tokenizers are remembered by name
    with (
        serve(engine=FakeEngine([f"{name}={tmp_path}"])) as server,
        ServiceClient(base_url=server.base_url, api_key="tml-test") as service,
    ):
        shutil.rmtree(tmp_path)  # as for a client on another machine, which has no such folder
        tokenizer = service.create_lora_training_client(name, rank=4).get_tokenizer()
    assert tokenizer.chat_template == CHATML
    message = {"role": "user", "content": "hi"}
    text = chat_template(tokenizer)([message], add_generation_prompt=True)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"

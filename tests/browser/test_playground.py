"""The playground over an engine that really samples, in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client.data.chat_tokenizers import CHATML, chat_tokenizer
from tinkex import AdamParams, Datum, ModelInput, ServiceClient
from tinkex.local import Server, serve
from tinkex_server.engine.fake import FakeEngine

OpenPage = Callable[..., Any]
TEXT = "forty two is 42\n"


@pytest.fixture(scope="module")
def trained(torch_server: Server) -> Iterator[str]:
    """The name of a checkpoint that has learned one sentence by heart."""
    with ServiceClient(
        torch_server.base_url, "tml-x", user_metadata={"name": "by heart"}
    ) as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=8)
        tokens = trainer.get_tokenizer().encode(TEXT)
        datum = Datum(
            model_input=ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={"target_tokens": tokens[1:]},
        )
        for _ in range(40):
            trainer.forward_backward([datum], "cross_entropy")
            trainer.optim_step(AdamParams(learning_rate=3e-3))
        trainer.save_weights_for_sampler("learned").result()
        yield "by heart / learned (to sample)"


def test_two_sets_of_weights_answer_side_by_side(
    torch_server: Server, trained: str, open_page: OpenPage
) -> None:
    page = open_page(f"{torch_server.base_url}/playground")
    page.get_by_label("Prompt").fill("forty two is")
    page.get_by_label("Compare with").select_option(label=trained)
    page.get_by_label("Most tokens").fill("4")
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Sample").click()
    page.locator("#answer-1 .facts-line", has_text="4 tokens").wait_for()
    page.locator("#answer-2 .facts-line", has_text=re.compile("cut at|ended by")).wait_for()
    page.locator("#start:not([disabled])").wait_for()
    assert page.locator("#answer-1 h2").inner_text() == "tinkex/tiny"
    assert page.locator("#answer-2 h2").inner_text() == trained
    learned = page.locator("#answer-2 .token").all_inner_texts()
    assert "".join(learned) == " 42\n"[: len("".join(learned))]
    assert page.locator("#answer-2 .token.p4").count() == len(learned)  # it is sure
    assert "4 tokens" in page.locator("#announcer").inner_text()


def test_tokens_show_what_else_was_likely(torch_server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{torch_server.base_url}/playground")
    page.get_by_label("Prompt").fill("the ")
    page.get_by_label("Most tokens").fill("6")
    page.keyboard.press("Control+Enter")
    page.locator("#answer-1 .facts-line", has_text="6 tokens").wait_for()
    page.locator("#start:not([disabled])").wait_for()
    page.locator("#answer-1 .tokens").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#announcer").inner_text().endswith(" %")
    rows = page.locator("#answer-1 .likeliest tr")
    assert rows.count() in (5, 6)
    assert page.locator("#answer-1 .likeliest tr.drawn").count() == 1
    percents = [float(text.rstrip(" %")) for text in rows.locator("td.figure").all_inner_texts()]
    assert percents[:5] == sorted(percents[:5], reverse=True)
    assert 0 < sum(percents[:5]) <= 100.5
    page.locator("#answer-1 .token").nth(3).hover()
    assert page.locator("#answer-1 .token").nth(3).get_attribute("class").endswith("chosen")


def test_a_long_sample_streams_and_can_be_stopped(
    torch_server: Server, open_page: OpenPage
) -> None:
    page = open_page(f"{torch_server.base_url}/playground")
    page.get_by_label("Prompt").fill("a")
    page.get_by_label("Most tokens").fill("1000")
    page.get_by_role("button", name="Sample").click()
    page.locator("#answer-1 .token").nth(3).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator("#answer-1 .facts-line", has_text="stopped").wait_for()
    assert 4 <= page.locator("#answer-1 .token").count() < 1000


def test_a_refusal_is_shown_in_place_of_the_answer(
    torch_server: Server, open_page: OpenPage
) -> None:
    page = open_page(f"{torch_server.base_url}/playground?weights=tinker://no/weights/such")
    page.get_by_label("Prompt").fill("a")
    page.get_by_role("button", name="Sample").click()
    page.locator("#answer-1 .facts-line", has_text="tinker://no/weights/such").wait_for()


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a model with a chat template, and of one without."""
    folder = tmp_path_factory.mktemp("chatty")
    chat_tokenizer(folder, CHATML)
    with serve(engine=FakeEngine([f"chatty/one={folder}", "plain/one"])) as server:
        yield server.base_url


def test_a_chat_message_goes_by_the_template_of_the_model(chatty: str, open_page: OpenPage) -> None:
    page = open_page(f"{chatty}/playground")
    chat = page.get_by_label("Chat message")
    page.get_by_label("Prompt").fill("hi there")
    page.get_by_label("Most tokens").fill("2")
    chat.check()
    page.get_by_label("Compare with").select_option(label="plain/one")
    page.get_by_role("button", name="Sample").click()
    page.locator("#answer-1 .facts-line", has_text=re.compile("cut at|ended by")).wait_for()
    shown = page.locator("#answer-1 .prompt").text_content()
    assert shown == "<|im_start|>user\nhi there<|im_end|>\n<|im_start|>assistant\n"
    # the other model has none, and says so in its place
    page.locator("#answer-2 .facts-line", has_text="has no chat template").wait_for()
    page.get_by_label("Weights").select_option(label="plain/one")
    assert chat.is_disabled()
    assert not chat.is_checked()
    assert page.get_by_text("The model has no chat template.").is_visible()
    page.get_by_label("Weights").select_option(label="chatty/one")
    assert chat.is_enabled()
    page.get_by_label("Compare with").select_option(label="nothing")
    page.get_by_role("button", name="Sample").click()
    page.locator("#answer-1 .facts-line", has_text=re.compile("cut at|ended by")).wait_for()
    assert page.locator("#answer-1 .prompt").text_content() == "hi there"

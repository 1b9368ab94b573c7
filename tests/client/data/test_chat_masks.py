"""The loss mask of chats: compared with that of transformers, and where a template adds tokens
between turns or shows earlier answers otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.client.data.chat_tokenizers import (
    CHATML,
    INSTRUCT,
    REASONING,
    chat_tokenizer,
    reference,
)
from tinkex import Tokenizer, get_tokenizer
from tinkex.data import ChatTemplate, DataError, Example, load, load_prompts

TURNS = [
    {"role": "user", "content": "red"},
    {"role": "assistant", "content": "stop"},
    {"role": "user", "content": "green, naïve ☃"},
    {"role": "assistant", "content": "go\n  on"},
]


def chats(folder: Path, *rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def learned(examples: Sequence[Example], tokenizer: Tokenizer) -> list[str]:
    """The pieces that are trained on."""
    return [
        piece.text for example in examples for piece in example.pieces(tokenizer) if piece.trained
    ]


@pytest.mark.parametrize("beside", [True, False], ids=["file", "config"])
@pytest.mark.parametrize("template", [CHATML, INSTRUCT], ids=["chatml", "instruct"])
@pytest.mark.parametrize("turns", [2, 3, 4])
def test_tokens_and_mask_are_those_of_transformers(
    tmp_path: Path, template: str, turns: int, beside: bool
) -> None:
    tokenizer = chat_tokenizer(tmp_path, template, beside=beside)
    messages = TURNS[:turns]
    (example,) = load(chats(tmp_path, messages), tokenizer).examples
    tokens, mask = reference(tokenizer, messages)
    assert example.tokens.tolist() == tokens
    assert example.weights.tolist() == mask
    assert sum(mask) > 0


def test_white_space_after_the_end_of_an_answer_is_not_learned(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, CHATML)
    data = load(chats(tmp_path, TURNS), tokenizer)
    assert learned(data.examples, tokenizer) == ["stop<|im_end|>", "go\n  on<|im_end|>"]


def test_the_target_of_each_token_is_the_one_after_it(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, CHATML)
    (example,) = load(chats(tmp_path, TURNS[:2]), tokenizer).examples
    datum = example.datum()
    targets, weights = (
        datum.loss_fn_inputs[name].to_numpy() for name in ("target_tokens", "weights")
    )
    assert datum.model_input.to_ints() == example.tokens[:-1].tolist()
    assert targets.tolist() == example.tokens[1:].tolist()
    assert tokenizer.decode(targets[weights != 0], skip_special_tokens=False) == "stop<|im_end|>"


def test_a_chat_whose_earlier_answers_are_shown_otherwise_is_an_example_per_answer(
    tmp_path: Path,
) -> None:
    tokenizer = chat_tokenizer(tmp_path, REASONING)
    path = chats(tmp_path, TURNS)
    data = load(path, tokenizer)
    opening = "<think>\n\n</think>\n\n"
    assert learned(data.examples, tokenizer) == [
        f"{opening}stop<|im_end|>",
        f"{opening}go\n  on<|im_end|>",
    ]
    # each answer comes after the very prompt that sampling gives
    (prompt,) = load_prompts(path, tokenizer)
    last = data.examples[1]
    assert last.tokens[: len(prompt.tokens)].tolist() == prompt.tokens.tolist()
    assert not last.weights[: len(prompt.tokens)].any()


def test_an_answer_that_the_prompt_does_not_lead_to_is_an_error_of_its_line(tmp_path: Path) -> None:
    def opens_reasoning(
        messages: Sequence[Any], *, add_generation_prompt: bool, tools: object = None
    ) -> str:
        text = "".join(f"<{each['role']}>{each['content']}" for each in messages)
        return text + ("<assistant><think>" if add_generation_prompt else "")

    path = chats(tmp_path, [TURNS[0], {"role": "assistant", "content": "<think>a</think>b"}], TURNS)
    with pytest.raises(DataError, match=r"chats\.jsonl:2: .*message 1 begins.*<think>") as error:
        load(path, get_tokenizer("tinkex/tiny"), template=opens_reasoning)
    assert (error.value.line, error.value.path) == (2, str(path))


def test_a_refusal_of_the_template_names_the_line(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, INSTRUCT)
    path = chats(tmp_path, TURNS, [TURNS[0], TURNS[0], TURNS[1]])
    with pytest.raises(DataError, match=r":2: the chat template refuses .*roles must alternate"):
        load(path, tokenizer)


def test_a_template_cannot_reach_beyond_its_sandbox(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, "{{ messages.__class__.__base__.__subclasses__() }}")
    with pytest.raises(DataError, match=r":1: the chat template failed .*SecurityError"):
        load(chats(tmp_path, TURNS), tokenizer)


def test_without_a_template_the_plain_format_ends_answers_with_the_end_of_text(
    tmp_path: Path,
) -> None:
    tokenizer = get_tokenizer("tinkex/tiny")
    (example,) = load(chats(tmp_path, TURNS[:2]), tokenizer).examples
    assert tokenizer.decode(example.tokens, skip_special_tokens=False) == (
        "user: red\nassistant: stop<|endoftext|>\n"
    )
    assert learned([example], tokenizer) == [" stop<|endoftext|>"]


def test_a_message_of_weight_0_is_read_and_not_learned(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, CHATML)
    path = chats(tmp_path, [TURNS[0], {**TURNS[1], "weight": 0}, *TURNS[2:]])
    assert learned(load(path, tokenizer).examples, tokenizer) == ["go\n  on<|im_end|>"]


def test_a_template_of_ones_own_gets_the_messages_and_the_tools(tmp_path: Path) -> None:
    tokenizer = get_tokenizer("tinkex/tiny")

    def own(messages: Sequence[Any], *, add_generation_prompt: bool, tools: Any = None) -> str:
        lines = [f"{each['role'][0]}>{each['content']};" for each in messages]
        return f"{tools[0]}|" + "".join(lines) + ("a>" if add_generation_prompt else "")

    template: ChatTemplate = own
    path = tmp_path / "tools.jsonl"
    path.write_text(json.dumps({"messages": TURNS[:2], "tools": ["T"]}))
    (example,) = load(path, tokenizer, template=template).examples
    assert next(example.pieces(tokenizer)).text == "T|u>red;a>"
    assert learned([example], tokenizer) == ["stop;"]

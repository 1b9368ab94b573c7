"""Chat templates: how the messages of a chat become text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tinkex.data.items import Message
from tinkex.data.jinja import compiled
from tinkex.tokenizer import Tokenizer


class ChatTemplate(Protocol):
    """A function that returns the text of a chat.

    `add_generation_prompt` asks for what the model reads before it answers, such as
    `<|im_start|>assistant`. The text of a chat must begin with the text of its first messages, or
    else nobody can say which part of it an answer is; an error names the line where it does not.
    """

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Any] | None = None,
    ) -> str: ...


def chat_template(tokenizer: Tokenizer) -> ChatTemplate:
    """Returns the tokenizer's own chat template, or `plain` where it has none.

    Raises:
        ConfigError: the template is not valid, or jinja2 is not installed.

    Example:
        template = tinkex.data.chat_template(tokenizer)
        text = template([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    """
    source = tokenizer.chat_template
    if source is None:
        return plain(tokenizer)
    render, special = compiled(source), tokenizer.special_tokens_map

    def own(
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Any] | None = None,
    ) -> str:
        return render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            documents=None,
            **special,
        )

    return own


def plain(tokenizer: Tokenizer) -> ChatTemplate:
    """Returns a template for models that have none: each message is `role: content` on a line of
    its own, and the end-of-text token ends an answer.

    With the tokenizer of tinkex/tiny, two messages become
    `user: 2 + 2 =` and `assistant: 4<|endoftext|>`, each followed by a line break. Without an
    end-of-text token the line break alone ends an answer.
    """
    end = tokenizer.eos_token or ""

    def plain(
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Any] | None = None,
    ) -> str:
        if tools:
            raise ValueError("the plain chat format cannot describe tools")
        lines = [
            f"{each['role']}: {each['content']}{end if each['role'] == 'assistant' else ''}\n"
            for each in messages
        ]
        return "".join(lines) + ("assistant:" if add_generation_prompt else "")

    return plain

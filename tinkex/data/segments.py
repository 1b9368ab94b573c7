"""`Segment`: a piece of text that is trained on, or that is only read. Items become segments here,
chats by rendering their beginnings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from tinkex.data.items import Chat, Completion, Item, Message, Text
from tinkex.data.jinja import TemplateRefusal
from tinkex.data.rows import Row
from tinkex.data.templates import ChatTemplate
from tinkex.errors import ConfigError
from tinkex.tokenizer import Tokenizer


@frozen
class Segment:
    """A piece of text, which the model learns to write if `trained`, and otherwise only reads."""

    text: str
    trained: bool


@frozen
class Renderer:
    """A tokenizer's special tokens and a chat template, which turn items into segments."""

    tokenizer: Tokenizer
    template: ChatTemplate

    def examples(self, item: Item, row: Row) -> Sequence[Sequence[Segment]]:
        """Returns the segments of each example that an item makes.

        A text and a completion end with the end-of-text token, so that the model learns to stop. A
        chat is one example. Where the chat template shows earlier answers otherwise than the last
        one, for example without their reasoning, it is one example per answer, each with what the
        model reads before it gives that answer. There are no examples of an item without text to
        learn.

        Raises:
            DataError: the chat template refuses the messages, or the text before an answer cannot
                be told from the answer.
        """
        if isinstance(item, Text):
            return [[Segment(self._ended(item.text), True)]] if item.text.strip() else []
        if isinstance(item, Completion):
            if not item.completion.strip():
                return []
            return [[Segment(item.prompt, False), Segment(self._ended(item.completion), True)]]
        taught = [place for place in sorted(item.trained) if _says_something(item.messages[place])]
        if not taught:
            return []
        whole = self._whole_chat(item, taught, row)
        return [whole] if whole is not None else [self._turn(item, at, row) for at in taught]

    def prompt(self, prompt: str | Chat, row: Row) -> str:
        """Returns the text that the model reads before it answers."""
        if isinstance(prompt, str):
            return prompt
        return self._render(prompt, len(prompt.messages), row, asks=True)

    def _whole_chat(self, chat: Chat, taught: Sequence[int], row: Row) -> list[Segment] | None:
        """Returns the whole chat as one example, or None if its text does not begin with the text
        of its first messages.
        """
        text = self._render(chat, len(chat.messages), row)
        segments: list[Segment] = []
        written = 0
        for place in taught:
            before = self._render(chat, place, row, asks=True)
            through = self._render(chat, place + 1, row)
            fits = text.startswith(through) and through.startswith(before)
            if not fits or len(before) < written:
                return None
            segments.append(Segment(text[written : len(before)], False))
            segments.extend(self._answer(text[len(before) : len(through)]))
            written = len(through)
        return [*segments, Segment(text[written:], False)]

    def _turn(self, chat: Chat, place: int, row: Row) -> list[Segment]:
        """Returns one answer as an example, with what the model reads before it gives it."""
        before = self._render(chat, place, row, asks=True)
        through = self._render(chat, place + 1, row)
        if not through.startswith(before):
            agree = next(
                (at for at, (a, b) in enumerate(zip(before, through, strict=False)) if a != b),
                min(len(before), len(through)),
            )
            raise row.error(
                f"the chat template does not show where the answer in message {place} begins: the "
                f"prompt has {before[agree : agree + 30]!r} where the chat with the answer has "
                f"{through[agree : agree + 30]!r}",
                "If the prompt opens a block of reasoning, the answer's content must contain it; "
                "or give a chat template of your own.",
            )
        return [Segment(before, False), *self._answer(through[len(before) :])]

    def _answer(self, text: str) -> Iterator[Segment]:
        """Yields an answer. White space after the token that ends it is not trained on: sampling
        stops before it.
        """
        answer = text.rstrip()
        ends = any(answer.endswith(token) for token in self.tokenizer.special_tokens)
        if not ends:
            answer = text
        yield Segment(answer, True)
        yield Segment(text[len(answer) :], False)

    def _ended(self, text: str) -> str:
        end = self.tokenizer.eos_token or ""
        return text if text.endswith(end) else text + end

    def _render(self, chat: Chat, count: int, row: Row, *, asks: bool = False) -> str:
        """Returns the text of the first `count` messages."""
        try:
            return self.template(
                chat.messages[:count], add_generation_prompt=asks, tools=chat.tools
            )
        except ConfigError:
            raise
        except TemplateRefusal as error:
            raise row.error(
                f"the chat template refuses the first {count} messages: {error}"
            ) from error
        except Exception as error:
            raise row.error(
                f"the chat template failed on the first {count} messages: "
                f"{type(error).__name__}: {error}"
            ) from error


def _says_something(message: Message) -> bool:
    return bool(str(message["content"]).strip()) or bool(message.get("tool_calls"))

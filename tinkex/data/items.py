"""The kinds of rows in a training file: a text, a prompt with its completion, a chat, and a pair of
answers of which one is preferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from attrs import frozen

from tinkex.data.other_formats import renaming, role_meant
from tinkex.data.rows import Row, type_name

Message: TypeAlias = Mapping[str, Any]
"""One message of a chat: `role`, `content`, and what else the chat template reads."""

FORMATS = (
    '{"text": …}, {"prompt": …, "completion": …}, {"messages": […]}, or '
    '{"prompt": …, "chosen": …, "rejected": …}'
)


@frozen
class Text:
    """A text, all of which is trained on."""

    text: str


@frozen
class Completion:
    """A prompt, and the completion that is trained on."""

    prompt: str
    completion: str


@frozen
class Chat:
    """The messages of a chat. Those with a place in `trained` are trained on."""

    messages: Sequence[Message]
    trained: frozenset[int]
    tools: Sequence[Any] | None = None
    """The tools that the chat template is to describe."""


Item: TypeAlias = Text | Completion | Chat


@frozen
class Preference:
    """Two answers to one prompt."""

    chosen: Completion | Chat
    rejected: Completion | Chat


def read_item(row: Row) -> Item:
    """Returns what a row of a file for supervised training is.

    Raises:
        DataError: the row has none of the known formats, or a field of another type.
    """
    fields = row.fields
    if "messages" in fields:
        return _chat(row, (), _messages(row, "messages"))
    if "prompt" in fields and "completion" in fields:
        return _completion(row, "completion")
    if "text" in fields:
        return Text(_string(row, "text"))
    if "chosen" in fields:
        raise row.error(
            "this is a preference pair, which supervised training does not use",
            "`tinkex train dpo` trains on such pairs.",
        )
    raise _unknown(row)


def why_empty(item: Item) -> str:
    """Returns why there is nothing to learn from an item of which that is known."""
    if isinstance(item, Text):
        return "its text is empty"
    if isinstance(item, Completion):
        return "its completion is empty"
    if item.trained:
        return "its answers are empty"
    if any(message["role"] == "assistant" for message in item.messages):
        return "its answers have the weight 0"
    roles = ", ".join(sorted({repr(message["role"]) for message in item.messages}))
    return f"no message has the role 'assistant'; found {roles}"


def read_preference(row: Row) -> Preference:
    """Returns a row of a file of preference pairs.

    Its fields are `prompt`, `chosen` and `rejected`, as texts or as messages. Without a prompt,
    `chosen` and `rejected` are whole chats that end in different answers.

    Raises:
        DataError: a field is missing or of another type.
    """
    for name in ("chosen", "rejected"):
        if name not in row.fields:
            raise row.error(
                f"a preference pair lacks {name!r}",
                'Expected {"prompt": …, "chosen": …, "rejected": …}.',
            )
    if "prompt" in row.fields:
        return Preference(_completion(row, "chosen"), _completion(row, "rejected"))
    return Preference(
        _last_of(row, _messages(row, "chosen"), "chosen"),
        _last_of(row, _messages(row, "rejected"), "rejected"),
    )


def read_prompt(row: Row) -> str | Chat:
    """Returns what a row asks the model: its `prompt`, or its chat up to the last answer.

    Raises:
        DataError: the row has neither, or a field of another type.
    """
    if "prompt" in row.fields:
        if isinstance(row.fields["prompt"], str):
            return row.fields["prompt"]
        return Chat(_messages(row, "prompt"), frozenset(), _tools(row))
    if "messages" in row.fields:
        messages = _messages(row, "messages")
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if not messages:
            raise row.error("the chat has no message before the answer")
        return Chat(messages, frozenset(), _tools(row))
    raise row.error(
        f"expected 'prompt' or 'messages', found {_names(row)}",
        "A prompt is a text or a list of messages.",
    )


def _completion(row: Row, name: str) -> Completion | Chat:
    """Returns the prompt of a row with the answer `name`, which are both texts or both messages."""
    prompt, answer = row.fields["prompt"], row.fields[name]
    if isinstance(prompt, str) and isinstance(answer, str):
        return Completion(prompt, answer)
    if isinstance(prompt, str):
        raise row.error(
            f"'prompt' is text, but {name!r} is {type_name(answer)}",
            "Give both as texts, or both as lists of messages.",
        )
    if isinstance(answer, str):
        answers: Sequence[Message] = [{"role": "assistant", "content": answer}]
    else:
        answers = _messages(row, name)
    return _chat(row, _messages(row, "prompt"), answers)


def _chat(row: Row, prompt: Sequence[Message], answers: Sequence[Message]) -> Chat:
    """Returns a chat in which the assistant's messages among `answers` are trained on, except those
    whose `weight` is 0.
    """
    trained = {
        len(prompt) + place
        for place, message in enumerate(answers)
        if message["role"] == "assistant" and _weight(row, message)
    }
    bare = [
        {name: value for name, value in message.items() if name != "weight"}
        for message in (*prompt, *answers)
    ]
    return Chat(bare, frozenset(trained), _tools(row))


def _last_of(row: Row, messages: Sequence[Message], name: str) -> Chat:
    if messages[-1]["role"] != "assistant":
        raise row.error(f"{name!r} must end with a message of the assistant")
    return Chat(messages, frozenset({len(messages) - 1}), _tools(row))


def _weight(row: Row, message: Message) -> bool:
    weight = message.get("weight", 1)
    if weight not in (0, 1):
        raise row.error(f"the 'weight' of a message must be 0 or 1, found {weight!r}")
    return bool(weight)


def _messages(row: Row, name: str) -> Sequence[Message]:
    value: object = row.fields[name]
    if not isinstance(value, list) or not value:
        kind = "a list of messages" if name == "messages" else "text or a list of messages"
        raise row.error(f"{name!r} must be {kind}, found {type_name(cast('object', value))}")
    return [
        _message(row, f"{name}[{index}]", each)
        for index, each in enumerate(cast("list[Any]", value))
    ]


def _message(row: Row, where: str, value: Any) -> Message:
    if not isinstance(value, dict) or not isinstance(
        cast("dict[str, Any]", value).get("role"), str
    ):
        raise row.error(f"{where} must be an object with a 'role' and a 'content'")
    message = cast("dict[str, Any]", value)
    if meant := role_meant(message["role"]):
        raise row.error(
            f"{where} has the role {message['role']!r}",
            f"Name it {meant!r}. Only messages of the role 'assistant' are learned.",
        )
    content = message.get("content")
    if content is None and message["role"] == "assistant" and "tool_calls" in message:
        return {**message, "content": ""}
    return {**message, "content": _content(row, where, content)}


def _content(row: Row, where: str, content: object) -> str:
    """Returns the text of a message, whose content may be a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise row.error(f"the 'content' of {where} must be text, found {type_name(content)}")
    texts: list[str] = []
    for part in cast("list[Any]", content):
        part = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        if part.get("type") != "text":
            raise row.error(
                f"the 'content' of {where} has a part of type {part.get('type')!r}",
                "Only parts of type 'text' can be read from a file; images need code of your own.",
            )
        texts.append(str(part["text"]))
    return "".join(texts)


def _tools(row: Row) -> Sequence[Any] | None:
    tools = row.fields.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise row.error(f"'tools' must be a list, found {type_name(tools)}")
    return cast("list[Any] | None", tools)


def _string(row: Row, name: str) -> str:
    value = row.fields[name]
    if not isinstance(value, str):
        raise row.error(f"{name!r} must be text, found {type_name(value)}")
    return value


def _unknown(row: Row) -> Exception:
    advice = f"{renaming(row.fields)}Expected {FORMATS}."
    return row.error(f"no known format: found {_names(row)}", advice)


def _names(row: Row) -> str:
    return ", ".join(map(repr, row.fields)) or "no fields"

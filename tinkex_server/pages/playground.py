"""The playground: samples from a base model or a checkpoint, streamed token by token as text."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from attrs import evolve, frozen
from tinkex_api.models import SampleRequest

from tinkex_server.access.ownership import Access
from tinkex_server.checkpoint_path import SAMPLER_WEIGHTS, WEIGHTS
from tinkex_server.engine.interface import SampleResult
from tinkex_server.errors import malformed
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.pages.chat_template import chat_prompt, has_chat_template
from tinkex_server.pages.names import title_of
from tinkex_server.pages.token_text import TextPieces, vocabulary
from tinkex_server.rules.sampling import checked_spec, prepare_stream, shared_sampler
from tinkex_server.state import ServerState
from tinkex_server.store import CheckpointRow
from tinkex_server.wire import bodies
from tinkex_server.wire.events import EventStream, server_sent_event

_ALTERNATIVES = 5
"""The likeliest tokens that are shown for each token."""
_MOST_CHECKPOINTS = 200
_USES = {WEIGHTS: "to train", SAMPLER_WEIGHTS: "to sample"}
_MOST_TOKENS = 2048
_FIELDS = ("max_tokens", "temperature", "top_p", "seed")


@frozen
class Weights:
    """Weights that can be sampled from."""

    value: str
    """The name of a base model, or the path of a checkpoint."""
    label: str
    has_chat_template: bool = False
    """Whether its model comes with a chat template."""


@frozen
class WeightsGroup:
    """The checkpoints of one run, or the base models."""

    title: str
    weights: Sequence[Weights]


def choices(state: ServerState, access: Access, asked: Sequence[str]) -> Sequence[WeightsGroup]:
    """Returns the weights that the playground offers: base models and the newest checkpoints, with
    those that the URL asks for.
    """
    groups = [
        WeightsGroup(
            "Base models",
            [Weights(name, name, has_chat_template(m)) for name, m in state.base_models.items()],
        ),
    ]
    by_run: dict[str, list[CheckpointRow]] = {}
    for row in state.store.checkpoints.page(access.owner, _MOST_CHECKPOINTS, 0):
        by_run.setdefault(row.path.run_id, []).append(row)
    groups += [_of_run(state, run_id, rows) for run_id, rows in by_run.items()]
    offered = {weights.value for group in groups for weights in group.weights}
    others = [Weights(path, path) for path in dict.fromkeys(asked) if path not in offered]
    return [*groups, WeightsGroup("Others", others)] if others else groups


def _of_run(state: ServerState, run_id: str, rows: Sequence[CheckpointRow]) -> WeightsGroup:
    model = state.store.models.get(run_id)
    title = title_of(model, state.store.sessions.get(model.session_id)) if model else run_id
    base = state.base_models.get(model.base_model) if model else None
    chats = base is not None and has_chat_template(base)
    weights = [
        Weights(str(row.path), f"{title} / {row.path.name} ({_USES[row.path.kind]})", chats)
        for row in rows
    ]
    return WeightsGroup(title, weights)


async def sample(
    state: ServerState, access: Access, fields: Mapping[str, Any]
) -> AsyncGenerator[bytes, None]:
    """Starts a sample as the playground asks for it, and returns its events: the prompt as the
    model reads it, the tokens, and the end. Raises `Refused` for values out of range.
    """
    weights, prompt = (_text(fields, name) for name in ("weights", "prompt"))
    sampler = (
        shared_sampler(state, access, weights, None)
        if weights in state.base_models
        else shared_sampler(state, access, None, weights)
    )
    model = state.base_model(sampler.base_model)
    is_chat = _flag(fields, "chat")
    words = await asyncio.to_thread(vocabulary, model)
    if is_chat:
        prompt = await asyncio.to_thread(chat_prompt, model, prompt)
    tokens = await asyncio.to_thread(words.encode, prompt, rendered=is_chat)
    request = bodies.read(SampleRequest, _request(fields, tokens))
    spec = evolve(checked_spec(state, sampler, request), topk_sample_logprobs=_ALTERNATIVES)
    identity = RequestIdentity(
        sampler.sampler_id, None, "playground", secrets.token_hex(8), access.new_owner
    )
    begin = await prepare_stream(state, sampler, spec, identity)
    stream = EventStream(begin, _TextEvents(TextPieces(words, tokens), len(tokens)))
    return _events(prompt, stream)


async def _events(prompt: str, stream: EventStream) -> AsyncGenerator[bytes, None]:
    async with aclosing(stream.read()) as events:
        yield server_sent_event({"prompt": prompt})
        async for event in events:
            yield event


def _request(fields: Mapping[str, Any], tokens: Sequence[int]) -> dict[str, Any]:
    params = {name: fields[name] for name in _FIELDS if fields.get(name) is not None}
    most = params.get("max_tokens")
    if type(most) is not int or not 1 <= most <= _MOST_TOKENS:
        raise malformed("max_tokens", message=f"must be 1 to {_MOST_TOKENS}")
    return {
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(tokens)}]},
        "sampling_params": params,
        "num_samples": 1,
    }


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise malformed(name, message="must be true or false")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise malformed(name, message="must be given")
    return value


@frozen
class _TextEvents:
    """The events of a sample as text, with the likeliest tokens of each place in the last one."""

    _pieces: TextPieces
    _prompt_tokens: int

    def token(self, token: int, logprob: float) -> Mapping[str, object]:
        return {"token": token, "text": self._pieces.add(token), "logprob": logprob}

    def end(self, result: SampleResult) -> Mapping[str, object]:
        [sequence] = result.sequences
        likeliest = sequence.topk_logprobs or []
        return {
            "stop_reason": sequence.stop_reason,
            "prompt_tokens": self._prompt_tokens,
            "likeliest": [self._pieces.names(pairs) for pairs in likeliest],
        }

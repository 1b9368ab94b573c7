"""The probes of what the server can do: its calls, repeated requests, and a sample."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from tinkex_api.api.checkpoints import list_user_checkpoints
from tinkex_api.api.server import get_server_capabilities, health
from tinkex_api.api.sessions import list_sessions
from tinkex_api.api.training_runs import list_training_runs
from tinkex_api.types import Request

from tinkex.dialects.detect import has_route
from tinkex.dialects.dialect import Dialect, SeqIdRepeats
from tinkex.dialects.table import OPTIONAL
from tinkex.doctor.contact import Contact
from tinkex.doctor.finding import Finding, skipped
from tinkex.doctor.settings import SECONDS
from tinkex.errors import APIError, TinkexError
from tinkex.service import AsyncServiceClient
from tinkex.transport.failures import status_error
from tinkex.transport.transport import Transport

_PROMPT = [1, 2, 3]  # tokens that every vocabulary has
_TOKENS = 4
_MEANING: Mapping[SeqIdRepeats, str] = {
    "repeats": "a repeated request gets the first result: a lost answer is asked for again",
    "refuses": "a repeated request is refused: a lost answer is recognised by that",
    "ignores": (
        "a repeated request is applied twice: the client repeats none, and a step whose answer is "
        "lost raises StepOutcomeUnknown"
    ),
    "unknown": "what happens to a repeated request is unknown, so the client repeats no step",
}


async def routes(contact: Contact) -> Finding:
    """Asks for the lists that a server may lack, and returns what it has and lacks.

    Calls that change something are not made: for these the dialect says what is known.
    """
    transport, dialect = contact.transport, contact.dialect
    requests: tuple[Request[Any], ...] = (
        get_server_capabilities.request(),
        health.request(),
        list_sessions.request(limit=1),
        list_training_runs.request(limit=1),
        list_user_checkpoints.request(limit=1),
    )
    answers = await asyncio.gather(*(_has(transport, request) for request in requests))
    asked = {request.operation: has for request, has in zip(requests, answers, strict=True)}
    absent = {name for name, has in asked.items() if has is False}
    missing = sorted({name for name in dialect.missing if asked.get(name) is not True} | absent)
    has = len(OPTIONAL) - len(set(missing) & set(OPTIONAL))
    lacks = f"; lacks {_list(missing)}" if missing else ""
    text = f"has {has} of {len(OPTIONAL)} optional calls{lacks}"
    if unexpected := sorted(absent - dialect.missing.keys()):
        return Finding(
            probe="routes",
            level="warn",
            text=text,
            cause=(
                f"{dialect.name} is not known to lack {', '.join(unexpected)}; it may be another "
                "release."
            ),
            command=f"curl -i {transport.base_url}{_path(requests, unexpected[0])}",
        )
    return Finding(probe="routes", level="ok", text=text)


async def _has(transport: Transport, request: Request[Any]) -> bool | None:
    """Returns whether the server has the call; None if its answer does not tell."""
    try:
        response = await transport.send_once(request, timeout=SECONDS)
    except APIError:
        return None
    if response.is_success:
        return True
    refusal = status_error(response, request.operation)
    return has_route(refusal.status_code, refusal.body)


def _path(requests: tuple[Request[Any], ...], operation: str) -> str:
    return next(request.path for request in requests if request.operation == operation)


def _list(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


async def repeats(contact: Contact) -> Finding:
    """Returns what is known of how the server treats repeated training requests."""
    return _known_repeats(contact.dialect)


def _known_repeats(dialect: Dialect) -> Finding:
    kind = dialect.seq_id_repeats
    text = f"{kind}: {_MEANING[kind]}"
    if kind != "unknown":
        return Finding(
            probe="repeats", level="ok", text=f"{text} ({dialect.known('seq_id_repeats')})"
        )
    return Finding(
        probe="repeats",
        level="warn",
        text=text,
        cause=(
            "This was not measured on this kind of server. To measure it, small models are trained."
        ),
        command="tinkex doctor --probe",
    )


async def probe(contact: Contact) -> Finding:
    """Measures how the server treats repeated training requests, on small models of its own."""
    if not contact.models:
        return skipped("repeats", "not measured: the server lists no model to train")
    async with AsyncServiceClient(config=contact.transport.config) as service:
        try:
            dialect = await service.probe_server(contact.models[0])
        except TinkexError as error:
            return Finding(
                probe="repeats",
                level="warn",
                text=f"not measured: {error.message}",
                cause=error.advice,
                command="tinkex doctor --probe",
            )
    if dialect.seq_id_repeats == "unknown":
        return Finding(
            probe="repeats",
            level="warn",
            text=_MEANING["unknown"],
            cause="The probe had no visible effect, or the refusal did not name the number.",
            command="tinkex doctor --report",
        )
    return _known_repeats(dialect)


async def sample(contact: Contact) -> Finding:
    """Draws a few tokens from a base model."""
    if not contact.dialect.sampling.base_models:
        return skipped("sample", f"{contact.dialect.name} does not sample from base models")
    if not contact.models:
        return skipped("sample", "the server lists no model to sample from")
    model = contact.models[0]
    began = time.perf_counter()
    async with AsyncServiceClient(config=contact.transport.config) as service:
        try:
            sampler = await service.create_sampling_client(base_model=model)
            drawn = await sampler.sample(_PROMPT, 1, {"max_tokens": _TOKENS})
        except TinkexError as error:
            return Finding(
                probe="sample",
                level="fail",
                text=f"{model}: {error.message}",
                cause=error.advice,
                command=command_of(model),
            )
    seconds = time.perf_counter() - began
    count = len(drawn.sequences[0].tokens_np)
    return Finding(
        probe="sample", level="ok", text=f"{count} tokens of {model} in {1000 * seconds:.0f} ms"
    )


def no_sample_in_time(contact: Contact, seconds: float, *, just_started: bool) -> Finding:
    """Returns the finding for a sample that did not come within the time of a probe.

    Args:
        just_started: whether the doctor itself started the server, whose model takes seconds to
            load.
    """
    model = contact.models[0]
    if just_started:
        return skipped(
            "sample",
            f"{model} was still loading after {seconds:.0f} s",
            command=command_of(model),
        )
    return Finding(
        probe="sample",
        level="warn",
        text=f"{model}: no tokens within {seconds:g} s",
        cause="The server may be loading the model, or have others to serve first.",
        command=command_of(model),
    )


def command_of(model: str) -> str:
    """Returns the command that draws a sample and waits for it."""
    return f'tinkex sample -m {model} "Once upon a time"'

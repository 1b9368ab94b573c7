"""Supervision of vLLMs: coroutines that run for as long as the server does, one for each vLLM.
`supervise` restarts it after each death, and `monitor` waits until somebody else has.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from attrs import frozen

from tinkex_server.engine.process.restart import PAUSES, Restarts
from tinkex_server.engine.vllm.api import VllmApi
from tinkex_server.engine.vllm.errors import SamplerFailed
from tinkex_server.engine.vllm.process import VllmProcess, environment_for_vllm, free_port
from tinkex_server.engine.vllm.replica import Replica

logger = logging.getLogger("tinkex.local.vllm")

_LOOK = 0.25  # seconds between two looks at a vLLM that is not up
_PAUSE = 1.0  # seconds after the death of one that somebody else runs
_TELL = 15.0  # seconds between two log lines about it


@frozen(kw_only=True)
class Start:
    """The command that starts one vLLM, and the pauses between its restarts."""

    python: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    pauses: Sequence[float] = PAUSES
    """The seconds before each restart in a row of a vLLM that lives only for seconds; after the
    last it is given up.
    """
    restarts: bool = True
    """Whether a vLLM that was up is started again."""


@frozen(kw_only=True)
class BaseArguments:
    """The facts on which the arguments of a vLLM that the server starts depend."""

    source: str
    """The folder or hub id of the base model."""
    context: int
    """The tokens of its context."""
    max_lora_rank: int
    precision: str
    """The precision of the training engine, "float32" or "bfloat16"."""

    def arguments(self, extra: Sequence[str]) -> list[str]:
        """Returns the arguments; `extra` come last, and so win over equal ones."""
        return [
            *("--model", self.source, "--served-model-name", "base"),
            *("--dtype", self.precision, "--max-model-len", str(self.context)),
            *("--enable-lora", "--max-lora-rank", str(self.max_lora_rank), "--max-loras", "4"),
            *("--max-cpu-loras", "32", "--max-logprobs", "-1", "--logprobs-mode", "raw_logprobs"),
            *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
            # tokens in, tokens out; and on this machine alone, since there is no key
            *("--enable-scale-out", "--host", "127.0.0.1"),
            *extra,
        ]


async def supervise(replica: Replica, start: Start) -> None:
    """Starts vLLM, and again whenever it dies or hangs. Gives it up when it cannot start for the
    first time, or dies too often in a row.
    """
    restarts = Restarts(start.pauses)
    while True:
        port = _chosen_port(start.arguments) or free_port()
        arguments = [*start.arguments, "--port", str(port)]
        logger.info("starting vLLM: %s %s", start.python, shlex.join(arguments))
        try:
            process = VllmProcess(start.python, arguments, environment_for_vllm(start.environment))
        except OSError as error:
            replica.fail(SamplerFailed(_cannot_run(start.python, error)))
            return
        try:
            reason, lived = await _one_life(replica, process, f"http://127.0.0.1:{port}")
        except SamplerFailed as error:
            replica.fail(error)
            return
        finally:
            await process.close()
        pause = restarts.pause(lived)
        ever_up = replica.base is not None
        if not (start.restarts if ever_up else "port is taken" in reason):
            pause = None
        if pause is None:
            text = f"vLLM {reason}"
            again = ever_up and start.restarts
            replica.fail(SamplerFailed(restarts.given_up(text) if again else text))
            logger.error("%s", replica.failure)
            return
        replica.note_down(f"{reason}, and is being restarted")
        logger.error("%s %s, and is restarted in %g s", replica.label, reason, pause)
        await asyncio.sleep(pause)


async def monitor(replica: Replica, url: str) -> None:
    """Watches a vLLM that somebody else runs, and notices when it is back after a death."""
    while True:
        async with VllmApi(url) as api:
            await _until_well(replica, api)
            try:
                reason = await replica.live(api)
            except SamplerFailed as error:
                replica.fail(error)
                logger.error("%s", error)
                return
        replica.note_down(reason)
        logger.error("%s %s; samples wait for it, or go to another one", replica.label, reason)
        await asyncio.sleep(_PAUSE)


async def _one_life(replica: Replica, process: VllmProcess, url: str) -> tuple[str, float]:
    """Returns why a process ended, as a phrase that follows "vLLM", and how many seconds it was
    up.
    """
    up_at: list[float] = []
    async with VllmApi(url) as api:

        async def live() -> str:
            await _until_well(replica, api)
            up_at.append(time.monotonic())
            return await replica.live(api)

        exited = asyncio.create_task(process.wait())
        living = asyncio.create_task(live())
        try:
            await asyncio.wait([exited, living], return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                reason = living.result()
                # it may be ending by itself, which tells more than that it does not answer
                await asyncio.wait([exited], timeout=2.0)
                if not exited.done():
                    process.kill()
                    reason = f"{reason}, and was killed"
                    await exited
                    return reason, time.monotonic() - up_at[0]
            return exited.result(), time.monotonic() - up_at[0] if up_at else 0.0
        finally:
            for task in (exited, living):
                task.cancel()
                with suppress(asyncio.CancelledError, SamplerFailed):
                    await task


async def _until_well(replica: Replica, api: VllmApi) -> None:
    began = told = time.monotonic()
    while await api.health() != "well":
        await asyncio.sleep(_LOOK)
        now = time.monotonic()
        if now - told >= _TELL:
            told = now
            logger.info("%s is not ready after %.0f s; samples wait", replica.label, now - began)


def _chosen_port(arguments: Sequence[str]) -> int | None:
    """Returns the port that the user chose, None if there is none."""
    for name, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if name == "--port" and value.isdigit():
            return int(value)
        if name.startswith("--port="):
            return int(name.removeprefix("--port="))
    return None


def _cannot_run(python: str, error: OSError) -> str:
    return (
        f"cannot start vLLM: {python} cannot be run ({error.strerror or error}): --vllm-python is "
        "the path of the Python interpreter of an environment in which vLLM is installed"
    )

"""`Replica`: one vLLM as the sampler sees it, through all its restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tinkex_server.engine.interface import (
    InvalidRequest,
    ModelInfo,
    OnToken,
    SampleResult,
    SampleSpec,
)
from tinkex_server.engine.process.hang_detector import HangTimeouts
from tinkex_server.engine.vllm.adapters import Adapter
from tinkex_server.engine.vllm.answers import PartialSample, cached_tokens, sample_result
from tinkex_server.engine.vllm.api import Served, VllmApi
from tinkex_server.engine.vllm.errors import (
    AdapterMissing,
    CallLost,
    SamplerFailed,
    WrongAnswer,
)
from tinkex_server.engine.vllm.requests import generate_body, room_for_sample

_PERIOD = 1.0  # seconds between two looks at a vLLM


class Life:
    """One life of a vLLM, from the moment when it can compute to its end."""

    def __init__(self, api: VllmApi, served: Served) -> None:
        self.api = api
        self.served = served
        self._loads: dict[str, asyncio.Task[None]] = {}

    def has(self, adapter: Adapter | None) -> bool:
        return adapter is None or adapter.name in self._loads

    async def ensure(self, adapter: Adapter) -> None:
        """Loads the adapter unless this vLLM has it. Concurrent calls share one load."""
        name = adapter.name
        if name not in self._loads:
            self._loads[name] = asyncio.create_task(
                self.api.load_adapter(name, str(adapter.folder))
            )
        load = self._loads[name]
        try:
            await asyncio.shield(load)
        except BaseException:
            if load.done() and self._loads.get(name) is load:
                del self._loads[name]
            raise

    def note_missing(self, adapter: Adapter) -> None:
        """Notes that vLLM does not have the adapter any more."""
        self._loads.pop(adapter.name, None)

    async def drop(self, adapter: Adapter) -> None:
        """Makes vLLM forget the adapter if it has it."""
        if load := self._loads.pop(adapter.name, None):
            await asyncio.wait([load])
            await self.api.unload_adapter(adapter.name)


class Replica:
    """One vLLM. It is up while it has a `Life`; whoever keeps it running calls `live` for each."""

    def __init__(
        self, label: str, info: ModelInfo, changed: Callable[[], None], hang_timeouts: HangTimeouts
    ) -> None:
        self.label = label
        """The phrase that stands for it in errors, for example "the vLLM at http://…"."""
        self.running = 0
        """The number of samples that it is asked for now."""
        self.life: Life | None = None
        self.failure: SamplerFailed | None = None
        """The reason why it will not be up again, if so."""
        self.why_down = "is starting"
        """A phrase that follows the label."""
        self.base: Served | None = None
        """The models that it had when it was up for the first time."""
        self.version = ""
        self._info = info
        self._changed = changed
        self._hang_timeouts = hang_timeouts

    async def live(self, api: VllmApi) -> str:
        """Lets samples through until this vLLM no longer answers or hangs; returns the reason, as a
        phrase that follows the label. Samples under way then raise `CallLost`.

        Raises `SamplerFailed` if it is no vLLM, or serves something else than before.
        """
        try:
            served = await api.served()
            self.version = await api.version()
        except (CallLost, WrongAnswer, InvalidRequest, AdapterMissing) as error:
            reason = f"does not answer as vLLM does: {error}"
            if self.base is None:
                raise SamplerFailed(f"{self.label} {reason}") from error
            return reason
        self._check_base(served)
        self.life = Life(api, served)
        self._changed()
        try:
            return await self._monitor(api)
        finally:
            self.life = None

    def note_down(self, why: str) -> None:
        self.why_down = why
        self._changed()

    def fail(self, error: SamplerFailed) -> None:
        """Gives the replica up."""
        self.failure = error
        self.note_down(str(error))

    async def sample(
        self, adapter: Adapter | None, spec: SampleSpec, on_token: OnToken | None
    ) -> SampleResult:
        """Asks this vLLM for a sample.

        Raises `CallLost` if it could be asked again, and `SamplerFailed` if not, which is also so
        when `on_token` was called already.
        """
        life = self.life
        if life is None:
            raise CallLost(f"{self.label} {self.why_down}")
        room = room_for_sample(
            spec, self._info, min(self._info.max_context_length, life.served.context)
        )
        body = generate_body(
            adapter.name if adapter else life.served.base, spec, room, stream=on_token is not None
        )
        self.running += 1
        try:
            if adapter:
                await life.ensure(adapter)
            if on_token:
                return await self._stream(life, body, spec, on_token)
            return sample_result(await life.api.generate(body), spec, self._info.vocab_size)
        except AdapterMissing as error:
            if adapter:
                life.note_missing(adapter)
            raise CallLost(str(error)) from error
        except WrongAnswer as error:
            raise SamplerFailed(f"{self.label} gave a wrong answer to a sample: {error}") from error
        finally:
            self.running -= 1

    async def _stream(
        self, life: Life, body: dict[str, object], spec: SampleSpec, on_token: OnToken
    ) -> SampleResult:
        sample = PartialSample(self._info.vocab_size, spec.topk_sample_logprobs)
        cached = 0
        try:
            async for part in life.api.generate_stream(body):
                for choice in part.get("choices") or ():
                    for token, logprob in sample.add(choice):
                        on_token(token, logprob)
                cached = max(cached, cached_tokens(part))
            return SampleResult([sample.result()], prompt_cache_hit_tokens=cached)
        except CallLost as error:
            if not sample.tokens:
                raise
            raise SamplerFailed(
                f"{self.label} failed after {len(sample.tokens)} tokens of a streamed sample "
                f"({error}): ask for the sample again"
            ) from error

    def _check_base(self, served: Served) -> None:
        if self.base is None:
            self.base = served
        elif (served.base, served.root) != (self.base.base, self.base.root):
            raise SamplerFailed(
                f"{self.label} serves {served.root or served.base!r} since it was restarted, and "
                f"before {self.base.root or self.base.base!r}: restart it with the same model"
            )

    async def _monitor(self, api: VllmApi) -> str:
        """Returns when vLLM is down or hangs."""
        healthy_at = moved_at = time.monotonic()
        progress = -1.0
        while True:
            await asyncio.sleep(_PERIOD)
            now = time.monotonic()
            health = await api.health()
            if health == "gone":
                return "does not answer, or cannot compute any more"
            if health == "silent":
                if now - healthy_at >= self._hang_timeouts.silent:
                    return f"has not answered GET /health for {now - healthy_at:.0f} s"
                continue
            healthy_at = now
            if not self.running:
                moved_at = now
                continue
            try:
                before, progress = progress, await api.progress()
            except (CallLost, SamplerFailed, InvalidRequest):
                continue  # the next look at /health tells more
            if progress != before:
                moved_at = now
            elif now - moved_at >= self._hang_timeouts.idle:
                return f"has computed nothing for {now - moved_at:.0f} s while samples waited"

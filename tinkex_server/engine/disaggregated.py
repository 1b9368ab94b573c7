"""`DisaggregatedEngine`: an engine that trains in one place and samples in another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from attrs import evolve

from tinkex_server.engine.interface import (
    Engine,
    EngineDied,
    LoraShape,
    OnToken,
    OptimizerKind,
    SampleResult,
    SampleSpec,
)
from tinkex_server.engine.wrapper import EngineWrapper

logger = logging.getLogger("tinkex.local")


class Sampler(Protocol):
    """The part of `Engine` that samples adapters which an engine has saved."""

    def warnings(self, lora: LoraShape) -> Sequence[str]:
        """Returns what the user who creates a model of this shape should know about sampling it."""
        ...

    @property
    def ready(self) -> Future[str]: ...

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None: ...

    def unload_sampler(self, sampler_id: str) -> None: ...

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]: ...

    def close(self) -> None: ...


Check = Callable[[Engine, Sampler], str]
"""A comparison of both, made once they are ready. It returns what is worth knowing, as a phrase for
people, and raises `EngineDied` if samples would be wrong.
"""


class DisaggregatedEngine(EngineWrapper):
    """An engine whose training calls go to `training` and whose samples come from `sampler`.

    Scores of prompts are computed by `training`, as the logprobs are that gradients are taken of.
    It is ready when both are and `check` has passed. Models can be trained before; samples wait.
    The death of the sampler is not a death of this engine, since no model is lost with it.
    """

    def __init__(self, training: Engine, sampler: Sampler, check: Check) -> None:
        super().__init__(training)
        self._sampler = sampler
        self._check = check
        self._ready: Future[str] = Future()
        # many callers wait for it, and none may cancel it
        self._ready.set_running_or_notify_cancel()
        self._closed = threading.Event()
        self._starter = threading.Thread(
            target=self._become_ready, name="tinkex-sampler-check", daemon=True
        )
        self._starter.start()

    @property
    def ready(self) -> Future[str]:
        return self._ready

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        warnings = super().create_model(model_id, base_model, lora, optimizer)
        return [*warnings, *self._sampler.warnings(lora)]

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        self._wait_until_ready()
        super().load_sampler(sampler_id, base_model, folder)
        self._sampler.load_sampler(sampler_id, base_model, folder)

    def unload_sampler(self, sampler_id: str) -> None:
        self._sampler.unload_sampler(sampler_id)
        super().unload_sampler(sampler_id)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        if not scores_prompt(spec):
            return self._sampler.sample(sampler_id, spec, on_token)
        if spec.num_samples == 1 and spec.max_tokens == 1:  # a request for the scores alone
            return super().sample(sampler_id, spec, on_token)
        scoring = evolve(spec, num_samples=1, max_tokens=1, topk_sample_logprobs=0)
        return _joined(
            self._sampler.sample(sampler_id, spec, on_token),
            super().sample(sampler_id, scoring),
        )

    def close(self) -> None:
        self._closed.set()
        self._sampler.close()
        super().close()
        self._starter.join()

    def _wait_until_ready(self) -> None:
        """Raises `EngineDied`, as an error of its own, if this engine cannot start."""
        if error := self.ready.exception():
            raise EngineDied(*error.args) from error

    def _become_ready(self) -> None:
        try:
            trains_on = self.engine.ready.result()
            samples_on = self._sampler.ready.result()
            found = self._check(self.engine, self._sampler)
        except EngineDied as error:
            self._ready.set_exception(error)
        except BaseException as error:  # noqa: BLE001  whatever it is, whoever waits is told
            text = "the engine was closed" if self._closed.is_set() else f"{error}"
            failed = EngineDied(f"sampling cannot start: {text}")
            failed.__cause__ = error
            self._ready.set_exception(failed)
        else:
            self._ready.set_result(f"{trains_on}; samples by {samples_on}, {found}")


def scores_prompt(spec: SampleSpec) -> bool:
    """Returns whether a request asks for scores of its prompt."""
    asked = spec.prompt_logprobs or spec.topk_prompt_logprobs or spec.prompt_alt_tokens_k
    return bool(asked) or spec.target_prompt_tokens is not None


def _joined(sampling: Future[SampleResult], scoring: Future[SampleResult]) -> Future[SampleResult]:
    """Returns the future of one result with the samples of the first and the scores of the second.
    Cancelling it cancels both.
    """
    joined: Future[SampleResult] = Future()
    parts = sampling, scoring

    def part_done(part: Future[SampleResult]) -> None:
        with suppress(InvalidStateError):  # cancelled, or failed by the other part
            if part.cancelled():
                joined.cancel()
            elif error := part.exception():
                joined.set_exception(error)
            elif all(one.done() and not one.cancelled() for one in parts):
                joined.set_result(_merged(sampling.result(), scoring.result()))

    def joined_done(_: Future[SampleResult]) -> None:
        for part in parts:
            part.cancel()  # does nothing to one that is done

    joined.add_done_callback(joined_done)
    for part in parts:
        part.add_done_callback(part_done)
    return joined


def _merged(sampled: SampleResult, scored: SampleResult) -> SampleResult:
    return evolve(
        scored,
        sequences=sampled.sequences,
        prompt_cache_hit_tokens=sampled.prompt_cache_hit_tokens,
    )

"""An engine that does sums at once, to test the HTTP side alone. It writes down every call, and can
be made to wait or fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field

from tinkex_server.engine.interface import (
    CustomLoss,
    EngineExit,
    Example,
    InvalidRequest,
    LoraShape,
    LossResult,
    ModelInfo,
    OnToken,
    OptimizerKind,
    OptimizerSettings,
    SampledTokens,
    SampleResult,
    SampleSpec,
    already_ready,
)


@define(eq=False)
class FakeEngine:
    """Each datum's logprobs are minus its tokens. A token of 99 is refused, 98 is a fault, 97 gives
    NaN; 96 waits for `gate`.

    A stream whose prompt begins with 95 goes on until it is cancelled, and `waiting` is released.
    """

    calls: list[tuple[str, ...]] = field(factory=list)
    threads: set[str] = field(factory=set)
    gate: threading.Event = field(factory=threading.Event)
    waiting: threading.Semaphore = field(factory=lambda: threading.Semaphore(0))
    models: set[str] = field(factory=set)
    warnings: Sequence[str] = ()
    optimizers: dict[str, OptimizerKind] = field(factory=dict)
    settings: list[OptimizerSettings] = field(factory=list)
    samplers: dict[str, Path | None] = field(factory=dict)
    specs: list[SampleSpec] = field(factory=list)
    ready: Future[str] = field(factory=lambda: already_ready("a fake engine"))
    _pool: ThreadPoolExecutor = field(
        factory=lambda: ThreadPoolExecutor(4, thread_name_prefix="tinkex-engine")
    )
    base_models: Sequence[ModelInfo] = (
        ModelInfo("fake/base", 64, 100, "FakeForCausalLM", "fake/tokenizer"),
    )

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        self._note("create_model", model_id)
        self.optimizers[model_id] = optimizer
        if lora.rank > 64:
            raise InvalidRequest("rank is at most 64")
        self.models.add(model_id)
        return self.warnings

    def unload_model(self, model_id: str) -> None:
        self._note("unload_model", model_id)
        self.models.remove(model_id)

    def check_loss(self, loss: CustomLoss) -> None:
        self._note("check_loss", *(name for name, _ in loss.inputs))
        if len(loss.nodes) > 20:
            raise InvalidRequest("too many nodes")

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        tokens = np.concatenate([example.tokens for example in data])
        self._note("forward_backward" if backward else "forward", model_id, str(tokens[0]))
        self._behave(int(tokens[0]))
        outputs = [{"logprobs": -example.tokens.astype(np.float32)} for example in data]
        loss = float("nan") if tokens[0] == 97 else float(tokens.sum())
        if tokens[0] == 97:
            outputs[0]["logprobs"][:] = [np.nan] + [-np.inf] * (len(data[0].tokens) - 1)
        return LossResult(outputs, {"loss:sum": loss})

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        self._note("optim_step", model_id, str(settings.learning_rate))
        self.settings.append(settings)
        return {"learning_rate": settings.learning_rate}

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        self._note("save_model", model_id, "with optimizer" if optimizer else "without optimizer")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(b"12345")
        if optimizer:
            (folder / "optimizer.safetensors").write_bytes(model_id.encode())

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        self._note(
            "load_model",
            model_id,
            "with optimizer" if optimizer else "without optimizer",
            folder.stem,
        )
        if model_id not in self.models:
            raise InvalidRequest(f"unknown model {model_id!r}")
        if folder.stem == "misfit":
            raise InvalidRequest("the saved weights do not fit")

    def import_adapter(self, base_model: str, lora: LoraShape, source: Path, folder: Path) -> None:
        self._note("import_adapter", base_model, lora.rank)
        weights = (source / "adapter_model.safetensors").read_bytes()
        if weights == b"misfit":
            raise InvalidRequest("the uploaded weights do not fit")
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(weights)

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        self._note("load_sampler", sampler_id)
        self.samplers[sampler_id] = folder

    def unload_sampler(self, sampler_id: str) -> None:
        self._note("unload_sampler", sampler_id)
        self.samplers.pop(sampler_id, None)

    def watch(self, died: Callable[[EngineExit], None]) -> None:
        pass

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        future: Future[SampleResult] = Future()
        self._pool.submit(self._answer, future, sampler_id, spec, on_token)
        return future

    def _answer(
        self,
        future: Future[SampleResult],
        sampler_id: str,
        spec: SampleSpec,
        on_token: OnToken | None,
    ) -> None:
        try:
            result = self._sample(future, sampler_id, spec, on_token)
            if not future.cancelled():
                future.set_result(result)
        except Exception as error:  # noqa: BLE001  handed on to whoever waits
            future.set_exception(error)

    def _sample(
        self,
        future: Future[SampleResult],
        sampler_id: str,
        spec: SampleSpec,
        on_token: OnToken | None,
    ) -> SampleResult:
        """The prompt's last token and 1; with max_tokens above 2, more ones. What is asked besides
        is of the token 1, too.
        """
        self._note("sample", sampler_id, str(spec.stop_strings), str(spec.stop_tokens))
        self.specs.append(spec)
        self._behave(spec.prompt[0])
        tokens = [spec.prompt[-1], *[1] * max(1, (spec.max_tokens or 2) - 1)]
        logprobs = [-0.5, *[-1.0] * (len(tokens) - 1)]
        if on_token:
            for token, logprob in zip(tokens, logprobs, strict=True):
                on_token(token, logprob)
            if spec.prompt[0] == 95:
                self._go_on_until_cancelled(future, on_token)
        top = [[(1, -0.5)]] * len(tokens) if spec.topk_sample_logprobs else None
        return SampleResult(
            [SampledTokens(tokens, logprobs, "stop", top)] * spec.num_samples, *_about_prompt(spec)
        )

    def _go_on_until_cancelled(self, future: Future[SampleResult], on_token: OnToken) -> None:
        for _ in range(1000):
            if future.cancelled():
                self.waiting.release()
                return
            on_token(1, -1.0)
            time.sleep(0.01)
        raise AssertionError("nobody cancelled it for 10 s")

    def count(self, *call: str) -> int:
        """How many calls began with these words."""
        return sum(made[: len(call)] == call for made in self.calls)

    def _note(self, *call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.current_thread().name)

    def _behave(self, token: int) -> None:
        if token == 99:
            raise InvalidRequest("token 99 is not a token")
        if token == 98:
            raise ZeroDivisionError("the fake broke\nsecond line")
        if token == 96:
            self.waiting.release()
            assert self.gate.wait(10)


def _about_prompt(spec: SampleSpec) -> tuple[Any, Any, Any, Any]:
    """Logprobs, likeliest tokens, logprobs of the targets, and drawn tokens: all of -1 but the
    second.
    """
    scored = (
        len(spec.prompt) - 1 if spec.prompt_logprobs_last_n is None else spec.prompt_logprobs_last_n
    )
    before = [None] * (len(spec.prompt) - scored)
    shape = (len(spec.prompt) - 1, spec.prompt_alt_tokens_k)
    return (
        [*before, *[-1.0] * scored] if spec.prompt_logprobs else None,
        [*before, *[[(1, -0.5)]] * scored] if spec.topk_prompt_logprobs else None,
        None
        if spec.target_prompt_tokens is None
        else np.where(spec.target_prompt_tokens < 0, 0, -1).astype(np.float32),
        (np.ones(shape, np.int64), np.full(shape, -1, np.float32))
        if spec.prompt_alt_tokens_k
        else None,
    )

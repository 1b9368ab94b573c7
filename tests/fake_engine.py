"""An engine that does sums at once, to test the HTTP side alone. It writes down every call, and can be made to wait or fail."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from attrs import define, field

from tinkex.local.engine.base import (
    AdamSettings,
    BaseModel,
    CustomLoss,
    Example,
    InvalidRequest,
    LoraShape,
    LossResult,
    SampledTokens,
    SampleResult,
    SampleSpec,
)


@define(eq=False)
class FakeEngine:
    """Each datum's logprobs are minus its tokens. A token of 99 is refused, 98 is a fault, 97 gives NaN; 96 waits for `gate`."""

    calls: list[tuple[str, ...]] = field(factory=list)
    threads: set[str] = field(factory=set)
    gate: threading.Event = field(factory=threading.Event)
    waiting: threading.Semaphore = field(factory=lambda: threading.Semaphore(0))
    models: set[str] = field(factory=set)
    samplers: dict[str, Path | None] = field(factory=dict)
    base_models: Sequence[BaseModel] = (BaseModel("fake/base", 64, 100, "FakeForCausalLM", "fake/tokenizer"),)

    def create_model(self, model_id: str, base_model: str, lora: LoraShape) -> None:
        self._note("create_model", model_id)
        if lora.rank > 64:
            raise InvalidRequest("rank is at most 64")
        self.models.add(model_id)

    def unload_model(self, model_id: str) -> None:
        self._note("unload_model", model_id)
        self.models.remove(model_id)

    def check_loss(self, loss: CustomLoss) -> None:
        self._note("check_loss", *(name for name, _ in loss.inputs))
        if len(loss.nodes) > 20:
            raise InvalidRequest("too many nodes")

    def forward_backward(
        self, model_id: str, data: Sequence[Example], loss_fn: str | CustomLoss, config: Mapping[str, float], *, backward: bool
    ) -> LossResult:
        tokens = np.concatenate([example.tokens for example in data])
        self._note("forward_backward" if backward else "forward", model_id, str(tokens[0]))
        self._behave(int(tokens[0]))
        outputs = [{"logprobs": -example.tokens.astype(np.float32)} for example in data]
        loss = float("nan") if tokens[0] == 97 else float(tokens.sum())
        if tokens[0] == 97:
            outputs[0]["logprobs"][:] = [np.nan] + [-np.inf] * (len(data[0].tokens) - 1)
        return LossResult(outputs, {"loss:sum": loss})

    def optim_step(self, model_id: str, adam: AdamSettings) -> Mapping[str, float]:
        self._note("optim_step", model_id, str(adam.learning_rate))
        return {"learning_rate": adam.learning_rate}

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        self._note("save_model", model_id, "with optimizer" if optimizer else "without optimizer")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(b"12345")
        if optimizer:
            (folder / "optimizer.safetensors").write_bytes(model_id.encode())

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        self._note("load_model", model_id, "with optimizer" if optimizer else "without optimizer", folder.name)
        if model_id not in self.models:
            raise InvalidRequest(f"unknown model {model_id!r}")
        if folder.name == "misfit":
            raise InvalidRequest("the saved weights do not fit")

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        self._note("load_sampler", sampler_id)
        self.samplers[sampler_id] = folder

    def sample(self, sampler_id: str, spec: SampleSpec) -> SampleResult:
        self._note("sample", sampler_id, str(spec.stop_strings), str(spec.stop_tokens))
        self._behave(spec.prompt[0])
        sequence = SampledTokens([spec.prompt[-1], 1], [-0.5, -1.0], "stop")
        prompt_logprobs = [None, *[-1.0] * (len(spec.prompt) - 1)] if spec.prompt_logprobs else None
        top = [None, *[[(1, -0.5)]] * (len(spec.prompt) - 1)] if spec.topk_prompt_logprobs else None
        return SampleResult([sequence] * spec.num_samples, prompt_logprobs, top)

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

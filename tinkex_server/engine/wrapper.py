"""`EngineWrapper`: another engine, of which subclasses change some calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from attrs import define

from tinkex_server.engine.interface import (
    CustomLoss,
    Engine,
    EngineExit,
    Example,
    LoraShape,
    LossResult,
    ModelInfo,
    OnToken,
    OptimizerKind,
    OptimizerSettings,
    SampleResult,
    SampleSpec,
)


@define(eq=False, slots=False)
class EngineWrapper:
    """An engine whose calls all go to another one, unless a subclass does otherwise."""

    engine: Engine

    @property
    def base_models(self) -> Sequence[ModelInfo]:
        return self.engine.base_models

    @property
    def ready(self) -> Future[str]:
        return self.engine.ready

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        return self.engine.create_model(model_id, base_model, lora, optimizer)

    def unload_model(self, model_id: str) -> None:
        self.engine.unload_model(model_id)

    def check_loss(self, loss: CustomLoss) -> None:
        self.engine.check_loss(loss)

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        return self.engine.forward_backward(model_id, data, loss_fn, config, backward=backward)

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        return self.engine.optim_step(model_id, settings)

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        self.engine.save_model(model_id, folder, optimizer=optimizer)

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        self.engine.load_model(model_id, folder, optimizer=optimizer)

    def import_adapter(self, base_model: str, lora: LoraShape, source: Path, folder: Path) -> None:
        self.engine.import_adapter(base_model, lora, source, folder)

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        self.engine.load_sampler(sampler_id, base_model, folder)

    def unload_sampler(self, sampler_id: str) -> None:
        self.engine.unload_sampler(sampler_id)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        return self.engine.sample(sampler_id, spec, on_token)

    def watch(self, died: Callable[[EngineExit], None]) -> None:
        self.engine.watch(died)

    def close(self) -> None:
        self.engine.close()

"""`Trainer`: the training of one base model's adapters, by an actor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinkex_server.engine.interface import (
    CustomLoss,
    Example,
    LoraShape,
    LossResult,
    OptimizerKind,
    OptimizerSettings,
)
from tinkex_server.engine.process.restart import PAUSES
from tinkex_server.engine.ray.crew import Crew
from tinkex_server.engine.ray.folders import Files
from tinkex_server.engine.ray.supervisor import OnLoss, Supervisor


class Trainer:
    """The trainer of one base model. Its methods run on one event loop."""

    def __init__(
        self, make: Callable[[], Crew], on_loss: OnLoss, pauses: Sequence[float] = PAUSES
    ) -> None:
        self.supervisor = Supervisor(make, on_loss, pauses)

    async def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind
    ) -> Sequence[str]:
        return await self._call("create_model", model_id, base_model, lora, optimizer)

    async def unload_model(self, model_id: str) -> None:
        await self._call("unload_model", model_id)

    async def check_loss(self, loss: CustomLoss) -> None:
        await self._call("check_loss", loss)

    async def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        return await self._crew.call("forward_backward", model_id, data, loss_fn, config, backward)

    async def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        return await self._call("optim_step", model_id, settings)

    async def save_model(self, model_id: str, *, optimizer: bool) -> Files:
        return await self._crew.call("save_model", model_id, optimizer)

    async def load_model(self, model_id: str, files: Any, *, optimizer: bool) -> None:
        """Loads the weights in `files`, a reference to an object in the store."""
        await self._crew.call("load_model", model_id, files, optimizer)

    async def import_adapter(self, base_model: str, lora: LoraShape, files: Any) -> Files:
        return await self._crew.call("import_adapter", base_model, lora, files)

    @property
    def _crew(self) -> Crew:
        return self.supervisor.crew

    async def _call(self, method: str, *args: Any) -> Any:
        return await self._crew.call("call", method, args, {})

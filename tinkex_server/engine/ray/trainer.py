"""`Trainer`: the training of one base model's adapters, by one actor or by several replicas."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import evolve

from tinkex_server.engine.interface import (
    CustomLoss,
    Example,
    LoraShape,
    LossResult,
    OptimizerKind,
    OptimizerSettings,
)
from tinkex_server.engine.process.restart import PAUSES
from tinkex_server.engine.ray.actor_group import ActorGroup
from tinkex_server.engine.ray.folders import Files
from tinkex_server.engine.ray.shards import combine, divide
from tinkex_server.engine.ray.supervisor import OnLoss, Supervisor


class Trainer:
    """The trainer of one base model. Its methods run on one event loop.

    Several replicas have the same models with the same weights. Each computes a part of every
    batch, and all take every step with the sum of their gradients; see
    `tinkex_server.engine.torch.replica.ReplicaEngine`.
    """

    def __init__(
        self, make: Callable[[], ActorGroup], on_loss: OnLoss, pauses: Sequence[float] = PAUSES
    ) -> None:
        self.supervisor = Supervisor(make, on_loss, pauses)
        # the sums of two steps must not meet
        self._stepping = asyncio.Lock()

    async def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind
    ) -> Sequence[str]:
        if lora.seed is None:  # replicas must begin with the same weights
            lora = evolve(lora, seed=secrets.randbits(31))
        return await self._call_all("create_model", model_id, base_model, lora, optimizer)

    async def unload_model(self, model_id: str) -> None:
        await self._call_all("unload_model", model_id)

    async def check_loss(self, loss: CustomLoss) -> None:
        await self._group.call("call", "check_loss", (loss,), {})

    async def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        group = self._group
        if group.size == 1:
            asked = (loss_fn, config), {"backward": backward}
            return await group.call("compute", "forward_backward", model_id, data, *asked)
        shards = divide(data, group.size)
        results = await asyncio.gather(
            *(
                group.call(
                    *("compute", "compute_part", model_id, shard.data),
                    *((loss_fn, config, backward, shard.first), {}),
                    member=shard.replica,
                )
                for shard in shards
            ),
            return_exceptions=True,
        )
        errors = [result for result in results if isinstance(result, BaseException)]
        if backward:
            ending = "drop_part" if errors else "accept_part"
            await group.call_all("call", ending, (model_id,), {})
        if errors:
            raise errors[0]
        return combine(
            shards, [result for result in results if not isinstance(result, BaseException)]
        )

    async def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        group = self._group
        async with self._stepping:
            answers = await group.call_all("call", "optim_step", (model_id, settings), {})
        if any(answer != answers[0] for answer in answers):
            await group.give_up(f"was given up, since its replicas took different steps: {answers}")
        return answers[0]

    async def save_model(self, model_id: str, *, optimizer: bool) -> Files:
        return await self._group.call("save_model", model_id, optimizer)

    async def load_model(self, model_id: str, files: Any, *, optimizer: bool) -> None:
        """Loads the weights in `files`, a reference to an object in the store."""
        await self._group.call_all("load_model", model_id, files, optimizer)

    async def import_adapter(self, base_model: str, lora: LoraShape, files: Any) -> Files:
        return await self._group.call("import_adapter", base_model, lora, files)

    @property
    def _group(self) -> ActorGroup:
        return self.supervisor.group

    async def _call_all(self, method: str, *args: Any) -> Any:
        return (await self._group.call_all("call", method, args, {}))[0]

"""`ReplicaEngine`: one of several torch engines that train the same models together."""

# torch types some of its functions only in part, and does not export TCPStore, which it documents
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tinkex_server.engine.interface import CustomLoss, Example, LossResult
from tinkex_server.engine.torch.engine import Model, TorchEngine
from tinkex_server.engine.torch.separate_gradients import SeparateGradients

_TIMEOUT = timedelta(minutes=30)
"""The time that a replica waits for the others in a step. Who watches them ends the wait earlier
when one is lost.
"""


class ReplicaEngine(TorchEngine):
    """A torch engine whose models have the same weights in every replica.

    Each replica computes the gradients of its part of a batch, and they are kept apart until it is
    known that the other parts had none that fails. Each step sums the gradients of all replicas,
    and then takes place in every replica: it is the same computation on the same numbers, so the
    weights and the optimizer's state stay the same without being sent. Steps must come in the same
    order to all replicas, one at a time.
    """

    def __init__(
        self, models: Sequence[str], device: str | None = None, dtype: str | None = None
    ) -> None:
        super().__init__(models, device, dtype)
        self._held: dict[str, SeparateGradients] = {}
        self._store: distributed.TCPStore | None = None
        self._device = torch.device("cpu")

    def open_store(self, host: str, size: int) -> int:
        """Opens the store by which the replicas find each other, on this address of this machine;
        returns its port. The first replica has it.
        """
        listener = socket.create_server((host, 0))
        port: int = listener.getsockname()[1]
        self._store = distributed.TCPStore(
            host,
            port,
            size,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
            timeout=_TIMEOUT,
        )
        return port

    def join(self, rank: int, size: int, host: str, port: int) -> None:
        """Joins the other replicas; returns when all are there."""
        store = self._store or distributed.TCPStore(
            host, port, size, is_master=False, timeout=_TIMEOUT
        )
        [base, *_] = self._bases.values()
        if base.device.type == "cuda":
            self._device = base.device
        distributed.init_process_group(
            "nccl" if base.device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=_TIMEOUT,
        )

    def compute_part(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        backward: bool,
        first: int,
    ) -> LossResult:
        """Computes the loss of a part of a batch, and its gradients, which count once they are
        accepted. `first` is the index of the first datum in the batch.
        """
        hold = partial(self._held.__setitem__, model_id) if backward else SeparateGradients.add
        return self._compute_losses(
            model_id, data, loss_fn, config, backward=backward, first=first, keep=hold
        )

    def accept_part(self, model_id: str) -> None:
        """Adds the gradients of the last part to the model's."""
        if held := self._held.pop(model_id, None):
            self._compute.run(held.add)

    def drop_part(self, model_id: str) -> None:
        """Drops the gradients of the last part, if it has any."""
        if held := self._held.pop(model_id, None):
            self._compute.run(held.drop)

    def _step(self, model: Model, settings: Any) -> float:
        self._sum_gradients(list(model.parameters.values()))
        return super()._step(model, settings)

    def _sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces the gradients by their sums over all replicas. A parameter that has none
        anywhere has none afterwards.
        """
        there = torch.tensor([float(weight.grad is not None) for weight in parameters])
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in parameters]
        flat = torch.cat([part.reshape(-1).to(self._device, torch.float32) for part in parts])
        summed = torch.cat([flat, there.to(self._device)])
        distributed.all_reduce(summed)
        counts = summed[len(flat) :].tolist()
        sums: Sequence[Tensor] = summed[: len(flat)].split([w.numel() for w in parameters])
        for weight, total, count in zip(parameters, sums, counts, strict=True):
            weight.grad = total.reshape(weight.shape).to(weight) if count else None

"""The engines that `serve` knows by name. Naming one imports nothing of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Literal, TypeAlias

from tinkex_server.engine.fake import FakeEngine
from tinkex_server.engine.interface import Engine
from tinkex_server.engine.model_info import check_names, describe
from tinkex_server.engine.process.engine import ProcessEngine
from tinkex_server.optional_dependencies import require

logger = logging.getLogger("tinkex.local")

EngineName: TypeAlias = Literal["torch", "fake"]
"""`torch` really trains and samples, in a process of its own; `fake` answers at once by arithmetic,
for tests of clients.
"""


def create_engine(
    name: EngineName, models: Sequence[str], device: str | None = None, dtype: str | None = None
) -> Engine:
    """An engine with these base models, which may have yet to start. `device` and `dtype` are for
    torch.

    Raises `ImportError`, saying what to install, or `InvalidRequest` for a model that is not to be
    found, or not served.
    """
    check_names(models)
    if name == "fake":
        return FakeEngine(models)
    require("torch", "transformers", "safetensors")
    described = [describe(model) for model in models]
    for model in described:
        if model.context_note:
            logger.warning(
                "%s is served with %d tokens: %s",
                model.name,
                model.max_context_length,
                model.context_note,
            )
    return ProcessEngine(partial(create_torch_engine, models, device, dtype), described)


def create_torch_engine(models: Sequence[str], device: str | None, dtype: str | None) -> Engine:
    """Called in the engine's process, where torch is imported."""
    from tinkex_server.engine.torch.engine import TorchEngine

    return TorchEngine(models, device, dtype)

"""`create_and_load`: makes a model of the engine from saved weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinkex_server.data_dir import digests
from tinkex_server.engine.interface import Engine, EngineDied
from tinkex_server.store import ModelRow


def create_and_load(
    engine: Engine, row: ModelRow, folder: Path, *, optimizer: bool
) -> Sequence[str]:
    """Creates a model and loads the weights in `folder` into it; returns the engine's warnings.

    If the weights cannot be loaded, the engine does not keep the model.
    """
    digests.check(folder)
    warnings = engine.create_model(row.model_id, row.base_model, row.lora, row.optimizer)
    try:
        engine.load_model(row.model_id, folder, optimizer=optimizer)
    except EngineDied:  # the model is gone with the engine's memory
        raise
    except Exception:
        engine.unload_model(row.model_id)
        raise
    return warnings

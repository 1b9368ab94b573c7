"""Saved adapters: folders that peft reads, with the optimizer's state in a file of its own."""

# safetensors types some of its functions only in part
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tinkex.local.engine.base import InvalidRequest
from tinkex.local.engine.lora import Adapter, LayerWeights

_CONFIG_FILE = "adapter_config.json"  # these two are peft's names
_WEIGHTS_FILE = "adapter_model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_swapping = threading.Lock()  # so that nobody reads one file of a folder and one of that which takes its place


def save_adapter(adapter: Adapter, folder: Path, optimizer_state: Mapping[str, Tensor] | None = None) -> None:
    """The folder appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as place:
        draft = Path(place, "new")
        draft.mkdir()
        (draft / _CONFIG_FILE).write_text(json.dumps(_config(adapter), indent=2))
        _write(adapter.named_weights(), draft / _WEIGHTS_FILE)
        if optimizer_state is not None:
            _write(optimizer_state, draft / _OPTIMIZER_FILE)
        _flush(draft)
        with _swapping:
            _put_in_place(draft, folder, Path(place, "old"))


def read_adapter(folder: Path) -> Adapter:
    with _swapping:
        config = json.loads((folder / _CONFIG_FILE).read_text())
        weights = load_file(folder / _WEIGHTS_FILE)
    names = sorted({name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in weights})
    key = "base_model.model.{}.lora_{}.weight"
    layers = {name: LayerWeights(weights[key.format(name, "A")], weights[key.format(name, "B")]) for name in names}
    return Adapter(config["r"], config["lora_alpha"], layers)


def read_training_state(folder: Path, *, optimizer: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The saved weights, and the optimizer's state (empty unless `optimizer`).

    Raises `InvalidRequest` when they are no longer there, or the optimizer's state was not saved.
    """
    with _swapping:
        if not (folder / _WEIGHTS_FILE).is_file():
            raise InvalidRequest("the saved weights were deleted")
        if not optimizer:
            return load_file(folder / _WEIGHTS_FILE), {}
        if not (folder / _OPTIMIZER_FILE).is_file():
            raise InvalidRequest("the weights were saved without the optimizer's state; load them without it")
        return load_file(folder / _WEIGHTS_FILE), load_file(folder / _OPTIMIZER_FILE)


def check_fit(saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises `InvalidRequest`, naming the first weight that is not as in the model."""
    for name in sorted(saved.keys() | wanted.keys()):
        if name not in saved:
            raise InvalidRequest(f"the saved weights lack {name}, which the model trains")
        if name not in wanted:
            raise InvalidRequest(f"the saved weights have {name}, which the model does not train")
        if saved[name].shape != wanted[name].shape:
            raise InvalidRequest(f"{name} was saved as {list(saved[name].shape)}, and is {list(wanted[name].shape)} in the model")


def _config(adapter: Adapter) -> Mapping[str, Any]:
    """What peft's LoraConfig does not take as given."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _last_names(adapter.layers),
    }


def _last_names(layers: Iterable[str]) -> list[str]:
    """Such as q_proj, once for all layers of that name."""
    return sorted({name.rpartition(".")[2] for name in layers})


def _write(tensors: Mapping[str, Tensor], file: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, file)


def _put_in_place(draft: Path, folder: Path, aside: Path) -> None:
    """Renames, so that `folder` is never half written; what it was before goes to `aside`, and comes back if this fails.

    A machine that stops just between the two renames leaves the old one in `aside`, and none in its place.
    """
    if not folder.exists():
        draft.rename(folder)
        return
    folder.rename(aside)
    try:
        draft.rename(folder)
    except OSError:
        aside.rename(folder)
        raise


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())

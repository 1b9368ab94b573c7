"""Saved adapters: folders that peft can read, with the optimizer's state in a separate file."""

# safetensors types some of its functions only in part
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from attrs import field, frozen
from safetensors.torch import load_file, save_file
from torch import Tensor

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.torch.adapter import Adapter, LayerWeights
from tinkex_server.engine.torch.finite_checks import check_finite

_CONFIG_FILE = "adapter_config.json"  # these two are peft's names
_WEIGHTS_FILE = "adapter_model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_TIED_FILE = "TIED_EMBEDDINGS.md"
_TIED_NOTE = """# How to merge this adapter

It is on the output layer `{head}` of a model whose input embeddings are the same matrix. Loaded by
peft it is exact, but peft's `merge_and_unload` would change the input, too, and with it every
logprob. This command makes one model of both, with an output matrix of its own:

    python -m tinkex.local.merge FOLDER OUTPUT

An adapter that was trained with `train_unembed=False` can be merged by peft.
"""


@frozen
class AdaptedModel:
    """The base model of an adapter, as the adapter's files describe it."""

    name: str | None
    """The name that transformers loads it by on this machine: a hub id, or the path of a folder."""
    modules: Sequence[str]
    """The full names of all its modules."""
    expert_names: Set[str] = frozenset()
    """The names, such as gate_proj, that peft treats as experts in models of this kind."""
    expert_tensors: Mapping[str, str] = field(factory=dict[str, str])
    """The full names of the fused tensors of experts, by the names of their layers."""
    tied_head: str | None = None
    """The full name of the output layer, if it shares its matrix with the input embeddings."""


def check_savable(adapter: Adapter, optimizer_state: Mapping[str, Tensor] | None) -> None:
    """Raises `InvalidRequest` for weights or a state with NaN or infinity."""
    for tensors in (adapter.named_weights(), optimizer_state or {}):
        check_finite(tensors, "the model cannot be saved; load an earlier checkpoint into it")


def save_adapter(
    adapter: Adapter,
    folder: Path,
    model: AdaptedModel,
    optimizer_state: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes an adapter, which `check_savable` has checked, to a new folder."""
    folder.mkdir(parents=True)
    (folder / _CONFIG_FILE).write_text(json.dumps(_config(adapter, model), indent=2))
    if model.tied_head in adapter.layers:
        (folder / _TIED_FILE).write_text(_TIED_NOTE.format(head=model.tied_head), encoding="utf-8")
    _write(adapter.named_weights(), folder / _WEIGHTS_FILE)
    if optimizer_state is not None:
        _write(optimizer_state, folder / _OPTIMIZER_FILE)


def read_adapter(folder: Path) -> Adapter:
    """Returns a saved adapter. Raises `InvalidRequest` if it is missing, or holds NaN, infinity or
    only zeros.
    """
    _check_there(folder)
    config = json.loads((folder / _CONFIG_FILE).read_text())
    weights = _read(folder / _WEIGHTS_FILE)
    names = sorted(
        {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in weights}
    )
    key = "base_model.model.{}.lora_{}.weight"
    layers = {
        name: LayerWeights(weights[key.format(name, "A")], weights[key.format(name, "B")])
        for name in names
    }
    return Adapter(config["r"], config["lora_alpha"], layers)


def base_model_of(folder: Path) -> str | None:
    """Returns the name of the adapter's base model; None if it was saved without one."""
    _check_there(folder)
    return json.loads((folder / _CONFIG_FILE).read_text())["base_model_name_or_path"]


def read_training_state(
    folder: Path, *, optimizer: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the saved weights and the optimizer's state (empty unless `optimizer`).

    Raises `InvalidRequest` if the files are missing or hold NaN, infinity or only zeros, or if the
    optimizer's state was not saved.
    """
    _check_there(folder)
    if not optimizer:
        return _read(folder / _WEIGHTS_FILE), {}
    if not (folder / _OPTIMIZER_FILE).is_file():
        raise InvalidRequest("the checkpoint has no optimizer state; load its weights alone")
    return _read(folder / _WEIGHTS_FILE), _read(folder / _OPTIMIZER_FILE)


def _read(file: Path) -> dict[str, Tensor]:
    tensors = load_file(file)
    check_finite(tensors, f"{file.name} cannot be loaded")
    if (
        file.name == _WEIGHTS_FILE
        and tensors
        and not any(value.any() for value in tensors.values())
    ):
        raise InvalidRequest(
            f"{file.name} contains only zeros, and with such weights no training is "
            "possible: the file is damaged. Restore it from a backup, or use another "
            "checkpoint"
        )
    return tensors


def _check_there(folder: Path) -> None:
    if not (folder / _WEIGHTS_FILE).is_file():
        raise InvalidRequest("the saved weights were deleted, or another engine saved them")


def check_fit(saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises `InvalidRequest`, naming the first weight that does not fit the model."""
    for name in sorted(saved.keys() | wanted.keys()):
        if name not in saved:
            raise InvalidRequest(f"the saved weights lack {name}, which this model trains")
        if name not in wanted:
            raise InvalidRequest(
                f"the saved weights include {name}, which this model does not train"
            )
        if saved[name].shape != wanted[name].shape:
            raise InvalidRequest(
                f"{name} has the shape {list(saved[name].shape)} in the checkpoint, and "
                f"{list(wanted[name].shape)} in the model"
            )


def _config(adapter: Adapter, model: AdaptedModel) -> Mapping[str, Any]:
    """Returns the fields of peft's LoraConfig that differ from its defaults."""
    linear = adapter.layers.keys() - model.expert_tensors.keys()
    # peft finds these layers by the names of their weights, as it does the tensors of experts
    hidden = {name for name in linear if _last(name) in model.expert_names}
    tensors = [
        *(f"{name}.weight" for name in hidden),
        *(tensor for name, tensor in model.expert_tensors.items() if name in adapter.layers),
    ]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.name,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _targets(linear - hidden, model.modules),
        **({"target_parameters": sorted(tensors)} if tensors else {}),
    }


def _targets(layers: Iterable[str], modules: Iterable[str]) -> list[str]:
    """Returns short module names, such as q_proj, or full names if the short ones would match other
    modules.
    """
    adapted = set(layers)
    last = {_last(name) for name in adapted}
    named = {name for name in modules if _last(name) in last}
    return sorted(last) if named == adapted else sorted(adapted)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _write(tensors: Mapping[str, Tensor], file: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, file)

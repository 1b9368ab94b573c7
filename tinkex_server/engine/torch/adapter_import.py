"""The import of adapters made by peft or another server: converted to this engine's format, or
refused.
"""

# safetensors types some of its functions only in part
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tinkex_server.engine.interface import ADAPTER_FILES, InvalidRequest
from tinkex_server.engine.torch.adapter import Adapter, LayerWeights
from tinkex_server.engine.torch.experts import FIRST_TENSORS, LAST_TENSOR
from tinkex_server.engine.torch.finite_checks import check_finite

_LARGEST_CONFIG = 1 << 20  # bytes
_CONFIG_FILE, _WEIGHTS_FILE = ADAPTER_FILES
_PREFIX, _SUFFIX = "base_model.model.", ".weight"
_UNSUPPORTED: Mapping[str, Sequence[Any]] = {
    "use_dora": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "fan_in_fan_out": (None, False),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (None, False),
}
"""Fields of peft's LoraConfig that change what an adapter computes, and the values that do not."""


def import_adapter_files(folder: Path, empty: Adapter) -> Adapter:
    """Returns the adapter in `folder`, converted to the shape and the scale of `empty`.

    Layers that it lacks are taken from `empty`, and have no effect. Raises `InvalidRequest`, naming
    the file and the field or weight, if it is no such adapter.

    The file format is peft's: https://huggingface.co/docs/peft/developer_guides/checkpoint
    """
    factor = _scaling(_config(folder / _CONFIG_FILE), empty.rank) / empty.scaling
    found = _layers(folder / _WEIGHTS_FILE)
    for name, pair in found.items():
        _check_layer(name, pair, empty)
    scaled = {
        name: LayerWeights(pair["A"].float(), pair["B"].float() * factor)
        for name, pair in found.items()
    }
    return Adapter(empty.rank, empty.alpha, {**empty.layers, **scaled})


def _config(file: Path) -> Mapping[str, Any]:
    try:
        if file.stat().st_size > _LARGEST_CONFIG:
            raise InvalidRequest(f"{file.name} is larger than {_LARGEST_CONFIG} bytes")
        config = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(f"{file.name} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InvalidRequest(f"{file.name} is not a JSON object")
    return cast("dict[str, Any]", config)


def _scaling(config: Mapping[str, Any], rank: int) -> float:
    """Returns the factor of the product of the two matrices."""
    if config.get("peft_type") != "LORA":
        raise InvalidRequest(
            f"{_CONFIG_FILE}: peft_type is {config.get('peft_type')!r}; only LORA adapters "
            "can be uploaded"
        )
    if config.get("r") != rank:
        raise InvalidRequest(
            f"{_CONFIG_FILE}: r is {config.get('r')!r}, but lora_config has rank {rank}"
        )
    for field, harmless in _UNSUPPORTED.items():
        if config.get(field) not in harmless:
            raise InvalidRequest(
                f"{_CONFIG_FILE}: {field} is {config[field]!r}, which this server does not "
                "support. Merge the adapter with peft, and train from the merged model"
            )
    _check_tensors(config.get("target_parameters") or [])
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha) or not alpha:
        raise InvalidRequest(
            f"{_CONFIG_FILE}: lora_alpha is {alpha!r}; it must be a number other than 0"
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_tensors(names: object) -> None:
    """Raises `InvalidRequest` for an adapter on the first of the experts' tensors alone, which peft
    saves under the name that otherwise is that of the last.
    """
    last = {str(name).rpartition(".")[2] for name in cast("list[object]", names)}
    if last & set(FIRST_TENSORS) and LAST_TENSOR not in last:
        raise InvalidRequest(
            f"{_CONFIG_FILE}: target_parameters has {', '.join(sorted(last))} without "
            f"{LAST_TENSOR}, which this server does not support. Make the adapter with both"
        )


def _layers(file: Path) -> Mapping[str, Mapping[str, Tensor]]:
    """Returns the matrices `A` and `B` of each layer."""
    try:
        tensors: Mapping[str, Tensor] = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise InvalidRequest(f"{file.name} cannot be read: {error}") from error
    if not tensors:
        raise InvalidRequest(f"{file.name} contains no weights")
    check_finite(tensors, f"{file.name} cannot be taken")
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        layer, _, matrix = key.removeprefix(_PREFIX).removesuffix(_SUFFIX).rpartition(".lora_")
        if matrix not in ("A", "B") or key != f"{_PREFIX}{layer}.lora_{matrix}{_SUFFIX}":
            raise InvalidRequest(
                f"{file.name}: {key} is not a weight of a LoRA adapter; such weights are named "
                f"{_PREFIX}<layer>.lora_A{_SUFFIX} and lora_B"
            )
        layers.setdefault(layer, {})[matrix] = tensor
    return layers


def _check_layer(name: str, pair: Mapping[str, Tensor], empty: Adapter) -> None:
    if name not in empty.layers:
        raise InvalidRequest(
            f"{_WEIGHTS_FILE} has weights for {name}, which this lora_config does not "
            "train: check its train_attn, train_mlp and train_unembed, and the base model"
        )
    for matrix, like in zip("AB", empty.layers[name], strict=True):
        if matrix not in pair:
            raise InvalidRequest(f"{_WEIGHTS_FILE} lacks lora_{matrix} of {name}")
        if pair[matrix].shape != like.shape or not pair[matrix].is_floating_point():
            raise InvalidRequest(
                f"{_WEIGHTS_FILE}: lora_{matrix} of {name} is {list(pair[matrix].shape)} of "
                f"{pair[matrix].dtype}; expected {list(like.shape)} of floats"
            )

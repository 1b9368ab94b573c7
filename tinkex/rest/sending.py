"""An adapter's folder: what its files say of it, and how they are sent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen

from tinkex.errors import InvalidInputError
from tinkex.rest.download import Progress
from tinkex.rest.uploading import UploadURL, put
from tinkex.types import LoraConfig

_CONFIG_FILE, _WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_LONGEST_HEADER = 100 << 20
"""Bytes of a safetensors file's header: https://github.com/huggingface/safetensors#format"""
_UNEMBEDDING = re.compile(r"\.(lm_head|embed_out|output)\.lora_")


@frozen
class AdapterFolder:
    """A LoRA adapter on the disk, as peft writes it."""

    folder: Path
    base: str | None
    """The base model that its files name."""
    lora_config: LoraConfig

    @classmethod
    def read(cls, folder: Path) -> AdapterFolder:
        """Reads what the files say, without the weights. Raises `InvalidInputError` for a folder that holds no adapter."""
        config = _config(folder / _CONFIG_FILE)
        rank = config.get("r")
        if not isinstance(rank, int):
            raise InvalidInputError(f"{folder / _CONFIG_FILE} does not say the adapter's rank, r")
        trains_unembedding = any(map(_UNEMBEDDING.search, _names(folder / _WEIGHTS_FILE)))
        shape = LoraConfig(
            rank=rank, train_attn=True, train_mlp=True, train_unembed=trains_unembedding
        )
        return cls(folder, config.get("base_model_name_or_path"), shape)

    @property
    def base_model(self) -> str:
        """The base model that its files name. Raises `InvalidInputError` where they name none."""
        if not self.base:
            raise InvalidInputError(
                f"{self.folder / _CONFIG_FILE} names no base model",
                advice="Give base_model, by the name that the server has for it.",
            )
        return self.base


async def send_files(
    urls: Mapping[str, UploadURL], folder: Path, progress: Progress | None
) -> None:
    """Sends each file that a server asks for, one after another.

    Raises `InvalidInputError`, before anything is sent, for one that the folder lacks.
    """
    if lacking := [name for name in urls if not (folder / name).is_file()]:
        raise InvalidInputError(
            f"{folder} has no {' and no '.join(lacking)}, which the server asks for"
        )
    sizes = {name: (folder / name).stat().st_size for name in urls}
    done = 0
    for name, url in urls.items():
        await put(url, folder / name, partial(_tell, progress, done, sum(sizes.values())))
        done += sizes[name]


def _tell(progress: Progress | None, before: int, total: int, sent: int) -> None:
    if progress is not None:
        progress(before + sent, total)


def _config(file: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}", advice=_ADVICE) from error
    if not isinstance(config, dict):
        raise InvalidInputError(f"{file} is no JSON object", advice=_ADVICE)
    return config  # pyright: ignore[reportUnknownVariableType]  json types nothing


_ADVICE = (
    f"Give a folder that peft's save_pretrained wrote, with {_CONFIG_FILE} and {_WEIGHTS_FILE}."
)


def _names(file: Path) -> list[str]:
    """Returns the names of the weights in a safetensors file."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError("it is no safetensors file")
            return [*json.loads(opened.read(length))]
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}", advice=_ADVICE) from error

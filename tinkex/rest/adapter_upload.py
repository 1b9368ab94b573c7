"""Reads an adapter's folder for an upload, and sends its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from attrs import frozen

from tinkex.downloads.adapter_files import CONFIG_FILE, WEIGHTS_FILE, read_config, tensor_names
from tinkex.downloads.download import ProgressCallback
from tinkex.errors import InvalidInputError
from tinkex.rest.external_weights import UploadURL, upload_file
from tinkex.types import LoraConfig

T = TypeVar("T")

_UNEMBEDDING = re.compile(r"\.(lm_head|embed_out|output)\.lora_")


@frozen
class AdapterFolder:
    """A LoRA adapter in a folder, as peft writes it."""

    folder: Path
    base: str | None
    """The base model that its files name; None where they name none."""
    lora_config: LoraConfig

    @classmethod
    def read(cls, folder: Path) -> AdapterFolder:
        """Reads the adapter's settings and shape, without its weights. Raises `InvalidInputError`
        for a folder that holds no adapter.
        """
        config = _read(read_config, folder, CONFIG_FILE)
        rank = config.get("r")
        if not isinstance(rank, int):
            raise InvalidInputError(f"{folder / CONFIG_FILE} does not give the adapter's rank, r")
        names = _read(tensor_names, folder, WEIGHTS_FILE)
        trains_unembedding = any(map(_UNEMBEDDING.search, names))
        shape = LoraConfig(
            rank=rank, train_attn=True, train_mlp=True, train_unembed=trains_unembedding
        )
        return cls(folder, config.get("base_model_name_or_path"), shape)

    @property
    def base_model(self) -> str:
        """The base model that its files name. Raises `InvalidInputError` where they name none."""
        if not self.base:
            raise InvalidInputError(
                f"{self.folder / CONFIG_FILE} names no base model",
                advice="Give base_model, with the name that the server uses.",
            )
        return self.base


async def send_files(
    urls: Mapping[str, UploadURL], folder: Path, progress: ProgressCallback | None
) -> None:
    """Sends each file that the server asks for, one after another.

    Raises `InvalidInputError`, before anything is sent, for a file that the folder lacks.
    """
    if lacking := [name for name in urls if not (folder / name).is_file()]:
        raise InvalidInputError(
            f"{folder} has no {' and no '.join(lacking)}, which the server asks for"
        )
    sizes = {name: (folder / name).stat().st_size for name in urls}
    done = 0
    for name, url in urls.items():
        await upload_file(url, folder / name, partial(_report, progress, done, sum(sizes.values())))
        done += sizes[name]


def _report(progress: ProgressCallback | None, before: int, total: int, sent: int) -> None:
    if progress is not None:
        progress(before + sent, total)


_ADVICE = f"Give a folder that peft's save_pretrained wrote, with {CONFIG_FILE} and {WEIGHTS_FILE}."


def _read(read: Callable[[Path], T], folder: Path, name: str) -> T:
    try:
        return read(folder)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{folder / name} cannot be read: {error}", advice=_ADVICE
        ) from error

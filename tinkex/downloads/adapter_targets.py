"""Adds the names of the modules that a downloaded adapter changes to its settings, where a server
left them out.

SkyRL 0.3 writes `target_modules: null`. peft then assumes the default modules of the kind of model,
and silently drops the weights of all others.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from tinkex.downloads.adapter_files import CONFIG_FILE, read_config, read_if_valid, tensor_names

logger = logging.getLogger("tinkex")

_LORA = ".lora_A."


def add_target_modules(folder: Path) -> None:
    """Writes the modules of the adapter's weights into adapter_config.json, unless it names some.
    Raises `OSError`.
    """
    settings = read_if_valid(read_config, folder)
    if settings is None or settings.get("target_modules") or settings.get("target_parameters"):
        return
    names = read_if_valid(tensor_names, folder) or ()
    modules = sorted(
        {name.partition(_LORA)[0].rpartition(".")[2] for name in names if _LORA in name}
    )
    if not modules:
        return
    (folder / CONFIG_FILE).write_text(
        json.dumps({**settings, "target_modules": modules}, indent=2), encoding="utf-8"
    )
    logger.warning(
        "the server's adapter_config.json names no target_modules, so that peft would drop "
        "weights; the modules of its weights were added: %s",
        ", ".join(modules),
    )

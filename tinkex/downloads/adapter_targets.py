"""The modules that a downloaded adapter changes, where its settings do not name them: peft would
take some of its own for all.

SkyRL 0.3 writes `target_modules: null`. peft then loads the usual two of a kind of model and drops
the weights of all others, without a word.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from tinkex.downloads.adapter_files import CONFIG_FILE, found, read_config, tensor_names

logger = logging.getLogger("tinkex")

_LORA = ".lora_A."


def name_targets(folder: Path) -> None:
    """Writes into adapter_config.json the modules that the weights beside it are for, unless it
    names some. Raises `OSError`.
    """
    settings = found(read_config, folder)
    if settings is None or settings.get("target_modules") or settings.get("target_parameters"):
        return
    names = found(tensor_names, folder) or ()
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
        "weights; those of the weights were added: %s",
        ", ".join(modules),
    )

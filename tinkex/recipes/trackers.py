"""`Trackers`: the programs that get the metrics beside the JSONL file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from attrs import frozen

from tinkex import ConfigError


class Tracker(Protocol):
    """A program that shows metrics."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step."""
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...


def open_trackers(
    names: Sequence[str], folder: Path, config: Mapping[str, Any]
) -> Sequence[Tracker]:
    """Opens trackers by name.

    Raises:
        ConfigError: the package of one is not installed.
    """
    return [_OPEN[name](_package(name), folder, config) for name in names]


def _package(name: str) -> ModuleType:
    module = "tensorboard.summary" if name == "tensorboard" else name
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--log {name} needs the package {name}, which cannot be imported: {error}",
            advice=f"pip install {name}. Without it, the metrics are in metrics.jsonl of the run.",
        ) from error


@frozen
class _TensorBoard:
    """Event files, which `tensorboard --logdir` shows."""

    writer: Any

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


@frozen
class _Logger:
    """A module with the functions of wandb: `init`, `log` and `finish`; trackio has them, too.

    What they print goes to stderr, since stdout has the data of a command.
    """

    module: Any

    def begin(self, **settings: Any) -> None:
        with redirect_stdout(sys.stderr):
            self.module.init(project="tinkex", resume="allow", **settings)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with redirect_stdout(sys.stderr):
            self.module.log(dict(metrics), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self.module.finish()


def _tensorboard(module: ModuleType, folder: Path, config: Mapping[str, Any]) -> Tracker:
    writer: Any = module.Writer(str(folder / "tensorboard"))
    return _TensorBoard(writer)


def _trackio(module: Any, folder: Path, config: Mapping[str, Any]) -> Tracker:
    logger = _Logger(module)
    logger.begin(name=folder.name, config=dict(config))
    return logger


def _wandb(module: Any, folder: Path, config: Mapping[str, Any]) -> Tracker:
    logger = _Logger(module)
    logger.begin(name=folder.name, id=folder.name, config=dict(config))
    return logger


_OPEN: Mapping[str, Callable[[Any, Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
}

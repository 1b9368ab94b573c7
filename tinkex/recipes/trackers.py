"""`Trackers`: the programs that get the metrics beside the JSONL file."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any, Protocol

from attrs import define, frozen

from tinkex import ConfigError
from tinkex.recipes.run_folder import RunFolder

_log = logging.getLogger("tinkex")
_PROJECT = "tinkex"


class Tracker(Protocol):
    """A program that shows metrics."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step."""
        ...

    def close(self, *, failed: bool) -> None:
        """Writes what is left. `failed` says whether the run has ended by an error."""
        ...


def open_trackers(
    names: Sequence[str], folder: RunFolder, config: Mapping[str, Any]
) -> Sequence[Tracker]:
    """Opens trackers by name.

    Args:
        names: the names of the trackers.
        folder: the folder of the run, by whose id a resumed run goes on in the tracker, too.
        config: the settings of the run.

    Raises:
        ConfigError: the package of one is not installed, or it cannot begin a run.
    """
    return [_open(name, folder, config) for name in names]


def _open(name: str, folder: RunFolder, config: Mapping[str, Any]) -> Tracker:
    package = _package(name)
    try:
        with redirect_stdout(sys.stderr):
            tracker = _OPEN[name](package, folder, config)
    except Exception as error:  # whatever it is, it is the package's, or of its settings
        raise ConfigError(
            f"--log {name} cannot begin a run: {error}",
            advice="Without it, the metrics are in metrics.jsonl of the run.",
        ) from error
    return _Guarded(name, tracker)


def _package(name: str) -> ModuleType:
    module = "tensorboard.summary" if name == "tensorboard" else name
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--log {name} needs the package {name}, which cannot be imported: {error}",
            advice=f"pip install {name}. Without it, the metrics are in metrics.jsonl of the run.",
        ) from error


@define
class _Guarded:
    """A tracker of another package. Its first failure is logged, and it gets no more: no training
    ends for want of a picture.

    What it prints goes to stderr, since stdout has the data of a command.
    """

    _name: str
    _tracker: Tracker
    _broken: bool = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._do(lambda: self._tracker.log(step, metrics), f"has no metrics from step {step} on")

    def close(self, *, failed: bool) -> None:
        self._do(lambda: self._tracker.close(failed=failed), "may lack the last metrics")

    def _do(self, work: Callable[[], None], loss: str) -> None:
        if self._broken:
            return
        try:
            with redirect_stdout(sys.stderr):
                work()
        except Exception as error:  # noqa: BLE001  whatever it is, the training goes on
            self._broken = True
            _log.warning("%s %s: %s", self._name, loss, error)


@frozen
class _TensorBoard:
    """Event files, which `tensorboard --logdir` shows. Of a step that is taken again it shows the
    last values.
    """

    writer: Any

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        self.writer.close()


@frozen
class _Trackio:
    """A run of trackio. Of a step that is taken again it has all values."""

    module: Any

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.module.log(dict(metrics), step=step)

    def close(self, *, failed: bool) -> None:
        self.module.finish()


@frozen
class _Wandb:
    """A run of wandb. Of a step that is taken again it keeps the first values."""

    module: Any

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.module.log(dict(metrics), step=step)

    def close(self, *, failed: bool) -> None:
        self.module.finish(exit_code=int(failed))


def _tensorboard(module: ModuleType, folder: RunFolder, config: Mapping[str, Any]) -> Tracker:
    writer: Any = module.Writer(str(folder.path / "tensorboard"))
    return _TensorBoard(writer)


def _trackio(module: Any, folder: RunFolder, config: Mapping[str, Any]) -> Tracker:
    name = f"{folder.path.name}-{folder.run_id}"
    module.init(project=_PROJECT, name=name, config=dict(config), resume="allow")
    return _Trackio(module)


def _wandb(module: Any, folder: RunFolder, config: Mapping[str, Any]) -> Tracker:
    names = {"name": folder.path.name, "id": folder.run_id}
    module.init(project=_PROJECT, **names, config=dict(config), resume="allow")
    return _Wandb(module)


_OPEN: Mapping[str, Callable[[Any, RunFolder, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
}

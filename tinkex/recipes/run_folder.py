"""`RunFolder`: what a run keeps on disk, so that it can be watched, compared and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from tinkex import InvalidInputError
from tinkex._version import __version__

Metrics = Mapping[str, float]
"""The metrics of one step by name."""


@frozen
class SavedState:
    """The place from which a run can be resumed: after `step` steps, with the state at `path`."""

    step: int = 0
    path: str | None = None
    sampler_path: str | None = None
    """The weights for sampling, which a finished run has saved."""


@frozen
class RunFolder:
    """A folder with these files:

    - `run.json`: an id, the recipe, its settings, and a fingerprint of the data;
    - `metrics.jsonl`: one line per step, `{"step": 1, "loss": 2.31, …}`;
    - `state.json`: the last saved state. It is replaced as a whole, and only once the server has
      the state, so that it is right whenever the process is killed.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, recipe: str, config: Mapping[str, Any], base_url: str) -> RunFolder:
        """Creates the folder of a new run.

        Raises:
            InvalidInputError: the folder has a run already, of which a step was applied or saved.
        """
        folder = cls(path)
        if folder.state().path is not None or folder.metrics():
            raise InvalidInputError(
                f"{path} has a run already",
                advice=f"Resume it with --resume {path}, or choose another folder with --out.",
            )
        path.mkdir(parents=True, exist_ok=True)
        files = {name: config[name] for name in ("data", "eval_data") if config.get(name)}
        _write_json(
            folder._run,
            {
                "id": secrets.token_hex(4),
                "recipe": recipe,
                "config": dict(config),
                "fingerprints": {name: _fingerprint(file) for name, file in files.items()},
                "base_url": base_url,
                "tinkex": __version__,
            },
        )
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Opens the folder of a run, to resume it.

        Raises:
            InvalidInputError: there is no run, or a data file has changed since it began.
        """
        folder = cls(path)
        if not folder._run.is_file():
            raise InvalidInputError(f"{path} has no run to resume: there is no {folder._run.name}")
        run = folder.run()
        for name, fingerprint in run["fingerprints"].items():
            file = run["config"][name]
            if _fingerprint(file) != fingerprint:
                raise InvalidInputError(
                    f"{file} has changed since the run began, so that its next batch is unknown",
                    advice="Restore the file, or start a new run with --start-from and the state "
                    f"{folder.state().path}.",
                )
        return folder

    def remove_if_unused(self) -> None:
        """Removes the folder of a run that has taken no step, with the files that a run writes."""
        if self.state().path is None and not self.metrics():
            self._run.unlink(missing_ok=True)
            with suppress(OSError):  # something else is in it
                self.path.rmdir()

    @property
    def metrics_path(self) -> Path:
        """The file of the metrics."""
        return self.path / "metrics.jsonl"

    @property
    def run_id(self) -> str:
        """A text that tells the run from others in a folder of the same name."""
        return self.run()["id"]

    def run(self) -> dict[str, Any]:
        """Returns the id, the recipe, its settings and the fingerprints of the data."""
        return json.loads(self._run.read_text("utf-8"))

    def state(self) -> SavedState:
        """Returns the last saved state."""
        if not self._state.is_file():
            return SavedState()
        return SavedState(**json.loads(self._state.read_text("utf-8")))

    def save(self, state: SavedState) -> None:
        """Replaces the last saved state."""
        _write_json(self._state, asdict(state))

    def metrics(self) -> list[dict[str, float]]:
        """Returns the metrics of each step. A last line that was not written whole is left out."""
        if not self.metrics_path.is_file():
            return []
        lines = self.metrics_path.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1]]

    def forget_after(self, step: int) -> list[dict[str, float]]:
        """Removes the metrics of all steps after `step`, which will be taken again, and returns the
        others.
        """
        kept = [metrics for metrics in self.metrics() if metrics["step"] <= step]
        text = "".join(json.dumps(metrics) + "\n" for metrics in kept)
        _replace(self.metrics_path, text)
        return kept

    def add_metrics(self, metrics: Metrics) -> None:
        """Adds the line of one step."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    @property
    def _run(self) -> Path:
        return self.path / "run.json"

    @property
    def _state(self) -> Path:
        return self.path / "state.json"


def _fingerprint(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: object) -> None:
    _replace(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _replace(path: Path, text: str) -> None:
    """Writes a file as a whole: whoever reads it finds the old text or the new one."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

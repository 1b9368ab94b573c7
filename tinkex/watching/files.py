"""Reads the metrics of a run: a file of JSON objects, one a line, with a `step` and numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from attrs import define, field

FILE_NAME = "metrics.jsonl"
"""The name of the file in the folder of a run."""
Metrics = Mapping[str, float]
"""The numbers of one step by name, `step` among them."""


def metrics_file(run: str | Path) -> Path:
    """Returns the file of metrics of a run: in its folder, or the given file itself."""
    path = Path(run)
    return path / FILE_NAME if path.is_dir() else path


def read_metrics(run: str | Path) -> list[Metrics]:
    """Returns the metrics of all steps in a file, or in the folder of a run.

    Raises:
        OSError: there is no such file.
    """
    return MetricsReader(metrics_file(run)).new()


@define
class MetricsReader:
    """Reads a file of metrics that another program is writing."""

    path: Path
    _offset: int = field(init=False, default=0)
    skipped: int = field(init=False, default=0)
    """The number of lines that were no JSON objects with numbers."""

    def new(self) -> list[Metrics]:
        """Returns the metrics of the complete lines that were added since the last call.

        A file that became shorter is read from its beginning.
        """
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self._offset:
                self._offset = 0
            file.seek(self._offset)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [metrics for line in complete.splitlines() if (metrics := self._parse(line))]

    def _parse(self, line: bytes) -> Metrics:
        if not line.strip():
            return {}
        try:
            value: object = json.loads(line)
        except ValueError:
            value = None
        values = cast("dict[str, Any]", value) if isinstance(value, dict) else dict[str, Any]()
        numbers = numbers_of(values)
        self.skipped += not numbers
        return numbers


def numbers_of(values: Mapping[str, Any]) -> Metrics:
    """Returns the entries that are numbers."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }

"""`Saves`: saves of a run's state and weights, with the metrics of the run as their metadata.

The metadata lets `tinkex checkpoint delete --keep-best` choose between the checkpoints of a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from attrs import define

from tinkex import APIFuture, BadRequestError, TrainingClient, UnprocessableEntityError

T = TypeVar("T")
_log = logging.getLogger("tinkex")
_PASSING = frozenset({"time", "tokens_per_second"})
"""Metrics that say nothing about the model."""


def metadata_of(history: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """Returns what a checkpoint says about the last step of a run: its metrics, and those of the
    last evaluation so far, with its step as `eval_step`. Texts by name, as servers keep them.
    """
    if not history:
        return {}
    last = {name: value for name, value in history[-1].items() if name not in _PASSING}
    return {name: f"{value:.9g}" for name, value in {**last, **_evaluation(history)}.items()}


def _evaluation(history: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Returns the metrics of the last evaluation, with its step; none before the first one."""
    for step in reversed(history):
        found = {name: value for name, value in step.items() if name.startswith("eval_")}
        if found:
            return {**found, "eval_step": step["step"]}
    return {}


@define
class Saves:
    """The saves of one run on a server, which may not keep metadata."""

    trainer: TrainingClient
    _keeps_metadata: bool = True

    def state(self, name: str, metadata: Mapping[str, str]) -> str:
        """Saves the state of training, and returns its path."""
        return self._saved(
            lambda facts: self.trainer.save_state(name, user_metadata=facts), metadata
        ).path

    def sampler(self, name: str, metadata: Mapping[str, str]) -> str | None:
        """Saves the weights for sampling, and returns their path."""
        return self._saved(
            lambda facts: self.trainer.save_weights_for_sampler(name, user_metadata=facts), metadata
        ).path

    def _saved(
        self, save: Callable[[Mapping[str, str] | None], APIFuture[T]], metadata: Mapping[str, str]
    ) -> T:
        if self._keeps_metadata:
            try:
                return save(metadata).result()
            except (BadRequestError, UnprocessableEntityError) as error:
                if "user_metadata" not in error.message:
                    raise
                self._keeps_metadata = False
                _log.warning(
                    "this server keeps no metadata of checkpoints, so that --keep-best cannot "
                    "choose between them; the metrics of each step are in the run's folder"
                )
        return save(None).result()

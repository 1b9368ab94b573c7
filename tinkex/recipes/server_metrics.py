"""`server_metrics`: the curves of a run on the page of a server that keeps metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from attrs import define

from tinkex import ServiceClient, TinkexError, TrainingClient, UnsupportedByServer
from tinkex.recipes.config import TrainConfig
from tinkex.recipes.loop import Goal
from tinkex.recipes.trackers import Tracker

_log = logging.getLogger("tinkex")
_NOT_SENT = frozenset({"tokens", "learning_rate", "tokens_per_second"})
"""Metrics that the server measures itself."""


def server_metrics(
    service: ServiceClient, trainer: TrainingClient, config: TrainConfig, goal: Goal, done: int
) -> Sequence[Tracker]:
    """Returns the tracker that sends the metrics of a run to its server; none for a server that is
    not known to keep them.

    Args:
        done: the steps that were taken before this process, of which the server's run knows none.
    """
    if not service.server.keeps_metrics:
        return ()
    # the server has the loss of each batch; another loss needs another name
    renamed = {} if goal.metric == "loss" else {"loss": f"{config.recipe}_loss"}
    return (_ServerMetrics(trainer, renamed, done),)


@define
class _ServerMetrics:
    """The run of a trainer on its server. The first failure is logged and ends the sending: no
    training ends for want of a picture, and later numbers of steps could be wrong.
    """

    _trainer: TrainingClient
    _renamed: Mapping[str, str]
    _done: int
    _failed: bool = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends the metrics of a step in one request, and waits for its answer: the next step must
        not be numbered before a step that has trained nothing.
        """
        named = {self._renamed.get(name, name): value for name, value in metrics.items()}
        values = {
            name: value
            for name, value in named.items()
            if name not in _NOT_SENT and name != "loss" and math.isfinite(value)
        }
        if self._failed or not values:
            return
        try:
            self._trainer.add_metrics(values, step - self._done)
        except UnsupportedByServer:  # such as by a gateway that seems to be an embedded server
            self._failed = True
        except TinkexError as error:
            self._failed = True
            _log.warning("the page of the run will lack metrics from step %d on: %s", step, error)

    def close(self, *, failed: bool) -> None:
        """Does nothing: all was sent."""

"""`ServerRun`: the steps of a run, as the embedded server tells them."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tinkex_api.api.training_runs import list_steps
from tinkex_api.models import StepsResponse, TrainingStep

from tinkex.config import Config
from tinkex.errors import NotFoundError, UnsupportedByServer
from tinkex.portal import portal
from tinkex.training.run_metrics import is_unknown_run
from tinkex.transport.transport import Transport
from tinkex.watching.files import Metrics, numbers_of

_ENDED = ("unloaded", "lost", "failed")


class ServerRun:
    """The steps of one run on a server, as a source of metrics.

    Args:
        config: the settings of the connection.
        run_id: the id of the run, as `RestClient.list_training_runs` lists it.
    """

    def __init__(self, config: Config, run_id: str) -> None:
        self._config, self._run_id = config, run_id
        self._transport: Transport | None = None
        self._last = 0
        self.ending: str | None = None
        """The state in which the run ended; None while it takes steps."""

    def new(self) -> list[Metrics]:
        """Returns the metrics of the steps since the last call.

        Raises:
            NotFoundError: the server has no such run.
            UnsupportedByServer: the server does not tell the steps of runs.
            APIConnectionError: the server cannot be reached.
        """
        answer = portal.shared().run(self._ask)
        if answer.steps:
            self._last = answer.steps[-1].step
        elif answer.state in _ENDED:
            self.ending = answer.state
        return [_numbers(step) for step in answer.steps]

    def close(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            portal.shared().run(self._transport.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _ask(self) -> StepsResponse:
        if self._transport is None:
            self._transport = Transport(self._config)
        try:
            return await self._transport.send(list_steps.request(self._run_id, after=self._last))
        except NotFoundError as error:
            if is_unknown_run(error):
                raise NotFoundError(
                    f"the server has no run {self._run_id}",
                    status_code=404,
                    body=error.body,
                    operation="list_steps",
                    advice="`tinkex run list` lists its runs.",
                ) from error
            raise UnsupportedByServer(
                f"the server at {self._transport.base_url} does not tell the steps of a run",
                server=self._transport.server.dialect.name,
                operation="list_steps",
                advice="Watch the folder of the run, to which the recipes write its metrics.",
            ) from error


def _numbers(step: TrainingStep) -> Metrics:
    return numbers_of({"step": step.step, "loss": step.loss, **step.metrics})

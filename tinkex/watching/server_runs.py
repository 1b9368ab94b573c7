"""`ServerRun`: the steps of a run, as the embedded server tells them."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import orjson

from tinkex.config import Config
from tinkex.errors import NotFoundError, UnsupportedByServer
from tinkex.portal import portal
from tinkex.transport.failures import status_error
from tinkex.transport.response_body import bound_of, read_whole
from tinkex.transport.transport import Transport
from tinkex.watching.files import Metrics, numbers_of

_OPERATION = "list_steps"
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
        steps: Sequence[dict[str, Any]] = answer["steps"]
        if steps:
            self._last = int(steps[-1]["step"])
        elif answer["state"] in _ENDED:
            self.ending = answer["state"]
        return [
            numbers_of({name: value for name, value in step.items() if name != "at"})
            for step in steps
        ]

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

    async def _ask(self) -> dict[str, Any]:
        if self._transport is None:
            self._transport = Transport(self._config)
        url = (
            f"{self._transport.base_url}/runs/{quote(self._run_id, safe='')}/steps"
            f"?after={self._last}"
        )
        async with self._transport.open_url(url, _OPERATION, with_key=True) as response:
            most = self._config.http_limits.max_answer_bytes
            await read_whole(response, bound_of(_OPERATION, most))
        if response.is_success and "json" in response.headers.get("content-type", ""):
            return orjson.loads(response.content)
        refusal = status_error(response, _OPERATION)
        if isinstance(refusal, NotFoundError) and "unknown model" in refusal.message:
            raise NotFoundError(
                f"the server has no run {self._run_id}",
                status_code=404,
                body=refusal.body,
                operation=_OPERATION,
                advice="`tinkex run list` lists its runs.",
            )
        if response.is_success or isinstance(refusal, NotFoundError):
            raise UnsupportedByServer(
                f"the server at {self._transport.base_url} does not tell the steps of a run",
                server=self._transport.server.dialect.name,
                operation=_OPERATION,
                advice="Watch the folder of the run, to which the recipes write its metrics.",
            )
        raise refusal

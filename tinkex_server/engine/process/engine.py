"""`ProcessEngine`: an engine in a process of its own, which is started again when it dies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from tinkex_server.engine.interface import (
    CustomLoss,
    EngineDied,
    EngineExit,
    Example,
    LoraShape,
    LossResult,
    ModelInfo,
    OnToken,
    OptimizerKind,
    OptimizerSettings,
    SampleResult,
    SampleSpec,
)
from tinkex_server.engine.process.child import Child
from tinkex_server.engine.process.hang_detector import Patience
from tinkex_server.engine.process.messages import Make
from tinkex_server.engine.process.restart import (
    PAUSES,
    failures_in_a_row,
    how_it_ended,
    pause_before_restart,
)
from tinkex_server.engine.process.watchdog import Watchdog

logger = logging.getLogger("tinkex.local")


class ProcessEngine:
    """What `make` makes, in another process, with all methods of `Engine`; those that are not below
    block until it has answered.

    Calls that are under way when the process dies, and those that come until that was dealt with,
    then raise `EngineDied`.

    Args:
        make: pickled, so a function or class of a module, or a `functools.partial` of one.
        base_models: those that it will have.
        pauses: seconds before it is started again, for each time in a row that it lives but
            seconds; after the last it is given up.
        patience: how long the process may hang with calls to answer; it is then killed, and so
            dies.
    """

    def __init__(
        self,
        make: Make,
        base_models: Sequence[ModelInfo],
        *,
        pauses: Sequence[float] = PAUSES,
        patience: Patience | None = None,
    ) -> None:
        self.base_models = base_models
        self._make = make
        self._pauses = pauses
        self._patience = patience or Patience()
        self._watcher: Callable[[EngineExit], None] | None = None
        self._lock = threading.Lock()  # of the child, and of whether it is closed
        self._closed = threading.Event()
        self._replaced = threading.Event()
        self._first = self._child = Child(make)
        self._supervisor = threading.Thread(
            target=self._supervise, name="tinkex-engine-supervisor", daemon=True
        )
        self._supervisor.start()

    @property
    def ready(self) -> Future[str]:
        """The first process decides: one that takes its place later can start as well."""
        return self._first.ready

    @property
    def pid(self) -> int:
        """Of the process that answers now."""
        return self._child.pid

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        return self._call("create_model", model_id, base_model, lora, optimizer)

    def unload_model(self, model_id: str) -> None:
        self._call("unload_model", model_id)

    def check_loss(self, loss: CustomLoss) -> None:
        self._call("check_loss", loss)

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        return self._call("forward_backward", model_id, data, loss_fn, config, backward=backward)

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        return self._call("optim_step", model_id, settings)

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        self._call("save_model", model_id, folder, optimizer=optimizer)

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        self._call("load_model", model_id, folder, optimizer=optimizer)

    def import_adapter(self, base_model: str, lora: LoraShape, source: Path, folder: Path) -> None:
        self._call("import_adapter", base_model, lora, source, folder)

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        self._call("load_sampler", sampler_id, base_model, folder)

    def unload_sampler(self, sampler_id: str) -> None:
        self._call("unload_sampler", sampler_id)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        return self._child.sample(sampler_id, spec, on_token)

    def watch(self, died: Callable[[EngineExit], None]) -> None:
        self._watcher = died

    def close(self) -> None:
        with self._lock:
            self._closed.set()
        self._replaced.set()
        self._child.close()
        self._supervisor.join()

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._child.call(method, args, kwargs).result()

    def _supervise(self) -> None:
        failures, going_on = 0, True
        while going_on:
            born = time.monotonic()
            with Watchdog(self._child, self._patience) as watchdog:
                exit_code = self._child.read()
            how = watchdog.verdict or how_it_ended(exit_code)
            failures = failures_in_a_row(failures, time.monotonic() - born)
            going_on = self._outlive(how, failures)

    def _outlive(self, how: str, failures: int) -> bool:
        """Whether another child has taken the place of the dead one. If not, calls fail from now
        on.
        """
        if not self._closed.is_set() and not self._was_ready():
            error = self._why_not_ready(how)
            logger.info("%s", error, exc_info=error)  # no more: it is told to all who ask
            self._child.fail(error)
            return False
        pause = pause_before_restart(failures, self._pauses)
        if pause is None and not self._closed.is_set():
            text = (
                f"the engine's process {how}, {failures} times in a row, and is not started "
                "again: restart the server"
            )
            logger.error("%s", text)
            self._tell(EngineExit(text, None))
            self._child.fail(EngineDied(text))
            return False
        if not self._closed.wait(pause) and self._replace(
            f"the engine's process {how}; it is started again"
        ):
            return True
        self._child.fail(EngineDied("the engine was closed"))
        return False

    def _was_ready(self) -> bool:
        """At all: whether what is to be made can be made."""
        return self.ready.done() and self.ready.exception() is None

    def _why_not_ready(self, how: str) -> EngineDied:
        told = self.ready.exception() if self.ready.done() else None
        return (
            told
            if isinstance(told, EngineDied)
            else EngineDied(f"the engine's process {how} before it was ready")
        )

    def _replace(self, text: str) -> bool:
        logger.error("%s", text)
        child = Child(self._make)
        self._replaced.clear()
        self._tell(EngineExit(text, partial(self._put_in_place, child, EngineDied(text))))
        self._replaced.wait()
        if self._closed.is_set():
            child.close()
            child.read()
            return False
        return True

    def _put_in_place(self, child: Child, error: EngineDied) -> None:
        """What was under way fails only now that the death has been dealt with: nobody asks again
        before that.
        """
        with self._lock:
            dead = self._child
            if not self._closed.is_set():
                self._child = child
        self._replaced.set()
        dead.fail(error)

    def _tell(self, death: EngineExit) -> None:
        if self._watcher:
            self._watcher(death)
        elif death.go_on:
            death.go_on()

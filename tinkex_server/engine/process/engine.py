"""`ProcessEngine`: an engine in a process of its own, which is restarted when it dies."""

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
from tinkex_server.engine.process.hang_detector import HangTimeouts
from tinkex_server.engine.process.messages import EngineFactory
from tinkex_server.engine.process.restart import (
    PAUSES,
    Restarts,
    exit_reason,
)
from tinkex_server.engine.process.watchdog import Watchdog

logger = logging.getLogger("tinkex.local")


class ProcessEngine:
    """An engine that forwards each call to an engine in another process, and blocks until it has
    replied.

    When the process dies, pending calls, and calls made until the exit has been handled, raise
    `EngineDied` once it has been handled.

    Args:
        factory: creates the engine. It is pickled, so it is a function or class of a module, or a
            `functools.partial` of one.
        base_models: the base models that the engine will have.
        pauses: seconds before each restart in a row of a process that lives only for seconds;
            after the last, the engine is given up.
        hang_timeouts: how long the process may hang with pending calls before it is killed.
    """

    def __init__(
        self,
        factory: EngineFactory,
        base_models: Sequence[ModelInfo],
        *,
        pauses: Sequence[float] = PAUSES,
        hang_timeouts: HangTimeouts | None = None,
    ) -> None:
        self.base_models = base_models
        self._factory = factory
        self._restarts = Restarts(pauses)
        self._hang_timeouts = hang_timeouts or HangTimeouts()
        self._watcher: Callable[[EngineExit], None] | None = None
        self._lock = threading.Lock()  # guards the child and the closed flag
        self._closed = threading.Event()
        self._switched = threading.Event()
        self._first = self._child = Child(factory)
        self._supervisor = threading.Thread(
            target=self._supervise, name="tinkex-engine-supervisor", daemon=True
        )
        self._supervisor.start()

    @property
    def ready(self) -> Future[str]:
        """The future of the first process; its replacements are expected to start as well."""
        return self._first.ready

    @property
    def pid(self) -> int:
        """The id of the current process."""
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
        self._switched.set()
        self._child.close()
        self._supervisor.join()

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._child.call(method, args, kwargs).result()

    def _supervise(self) -> None:
        running = True
        while running:
            born = time.monotonic()
            with Watchdog(self._child, self._hang_timeouts) as watchdog:
                exit_code = self._child.read()
            reason = watchdog.kill_reason or exit_reason(exit_code)
            running = self._handle_exit(reason, time.monotonic() - born)

    def _handle_exit(self, reason: str, lived: float) -> bool:
        """Restarts the process if possible; returns whether a new process is running. If not, all
        later calls fail.
        """
        if not self._closed.is_set() and not self._has_been_ready():
            error = self._startup_error(reason)
            logger.info("%s", error, exc_info=error)  # not an error line: each call raises it
            self._child.fail(error)
            return False
        pause = self._restarts.pause(lived)
        if pause is None and not self._closed.is_set():
            text = self._restarts.given_up(f"the engine process {reason}")
            logger.error("%s", text)
            self._report_exit(EngineExit(text, None))
            self._child.fail(EngineDied(text))
            return False
        if not self._closed.wait(pause) and self._restart(
            f"the engine process {reason}, and is being restarted"
        ):
            return True
        self._child.fail(EngineDied("the engine was closed"))
        return False

    def _has_been_ready(self) -> bool:
        """Returns whether the engine was ever ready, so that a restart can succeed."""
        return self.ready.done() and self.ready.exception() is None

    def _startup_error(self, reason: str) -> EngineDied:
        told = self.ready.exception() if self.ready.done() else None
        return (
            told
            if isinstance(told, EngineDied)
            else EngineDied(f"the engine process {reason} before it was ready")
        )

    def _restart(self, text: str) -> bool:
        logger.error("%s", text)
        child = Child(self._factory)
        self._switched.clear()
        self._report_exit(EngineExit(text, partial(self._switch_to, child, EngineDied(text))))
        self._switched.wait()
        if self._closed.is_set():
            child.close()
            child.read()
            return False
        return True

    def _switch_to(self, child: Child, error: EngineDied) -> None:
        """Puts a new child in place. Pending calls fail only now, after the exit was handled, so
        that callers do not retry too early.
        """
        with self._lock:
            dead = self._child
            if not self._closed.is_set():
                self._child = child
        self._switched.set()
        dead.fail(error)

    def _report_exit(self, engine_exit: EngineExit) -> None:
        if self._watcher:
            self._watcher(engine_exit)
        elif engine_exit.resume:
            engine_exit.resume()

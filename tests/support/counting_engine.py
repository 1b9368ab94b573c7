"""An engine whose models know one thing, how many steps they took, and keep it when they are saved;
and a process that serves it.
"""

from __future__ import annotations

import multiprocessing
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from attrs import define, evolve, field

import tinkex.local
from tests.support.recording_engine import RecordingEngine
from tinkex_server.engine.interface import CustomLoss, Example, LossResult, OptimizerSettings

ROOT = Path(__file__).resolve().parents[2]


@define(eq=False)
class CountingEngine(RecordingEngine):
    """`loss:sum` is the number of steps that the model took before."""

    steps: Counter[str] = field(factory=Counter)

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        result = super().forward_backward(model_id, data, loss_fn, config, backward=backward)
        return evolve(result, metrics={"loss:sum": float(self.steps[model_id])})

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        self.steps[model_id] += 1
        return super().optim_step(model_id, settings)

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        super().save_model(model_id, folder, optimizer=optimizer)
        (folder / "steps").write_text(str(self.steps[model_id]))

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        super().load_model(model_id, folder, optimizer=optimizer)
        self.steps[model_id] = int((folder / "steps").read_text())


_FORKS = multiprocessing.get_context("forkserver")
# so that a server starts in milliseconds: tests kill and restart it dozens of times
_FORKS.set_forkserver_preload(["tests.support.counting_engine", "tinkex_server.app.server"])

Patch = Callable[[], None]


@define
class Process:
    """A server in a process of its own, which can be killed and started again at the same place.

    `patch` runs in that process before it serves.
    """

    port: int
    data_dir: Path
    patch: Patch | None = None
    child: ForkServerProcess | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        ready, theirs = _FORKS.Pipe(duplex=False)
        self.child = _FORKS.Process(
            target=_serve, args=(self.port, self.data_dir, self.patch, theirs), daemon=True
        )
        self.child.start()
        theirs.close()
        with ready:
            ready.recv()

    def kill(self) -> None:
        """Kills the server by SIGKILL."""
        if self.child is not None:
            self.child.kill()
            self.child.join()
            self.child.close()
            self.child = None


@contextmanager
def process(data_dir: Path, patch: Patch | None = None) -> Iterator[Process]:
    """Starts a server in a process of its own, and kills it at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        server = Process(free.getsockname()[1], data_dir, patch)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _serve(port: int, data_dir: Path, patch: Patch | None, ready: Connection) -> None:
    """Serves until it is killed."""
    if patch:
        patch()
    with tinkex.local.serve(engine=CountingEngine(), port=port, data_dir=data_dir):
        ready.send(None)
        ready.close()
        threading.Event().wait()

"""An engine whose models know one thing, how many steps they took, and keep it when they are saved;
and a process that serves it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import define, evolve, field

import tinkex.local
from tests.support.recording_engine import RecordingEngine
from tinkex_server.engine.interface import Example, LossResult, OptimizerSettings

ROOT = Path(__file__).resolve().parents[2]


@define(eq=False)
class CountingEngine(RecordingEngine):
    """`loss:sum` is the number of steps that the model took before."""

    steps: Counter[str] = field(factory=Counter)

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str,
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


@define
class Process:
    """A server in a process of its own, which can be killed and started again at the same place."""

    port: int
    data_dir: Path
    module: str = "tests.support.counting_engine"
    child: subprocess.Popen[str] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", self.module, str(self.port), str(self.data_dir)]
        self.child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout is not None
        assert self.child.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """Kills the server by SIGKILL."""
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None


@contextmanager
def process(data_dir: Path, module: str = "tests.support.counting_engine") -> Iterator[Process]:
    """Starts `module` as a script and yields the server that it serves."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        server = Process(free.getsockname()[1], data_dir, module)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def main() -> None:
    """Serves at the port and from the folder that are given as arguments, until it is killed."""
    with tinkex.local.serve(engine=CountingEngine(), port=int(sys.argv[1]), data_dir=sys.argv[2]):
        print("ready", flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()

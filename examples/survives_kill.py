"""A training run survives a kill -9 of its server, and ends with the same losses as an undisturbed
run.

Starts the embedded server as a process of its own and trains once undisturbed. In a second run, the
server is killed in the middle of a step and restarted at the same address, as a supervisor would
do. The losses of both runs are printed side by side.
"""

from __future__ import annotations

import json
import logging
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from types import TracebackType

import tinkex.demo
from tinkex import (
    AdamParams,
    Datum,
    ModelInput,
    RecoveryPolicy,
    ServiceClient,
    TinkexError,
    Tokenizer,
)

DATA = Path(tinkex.demo.__file__).parent / "numbers.train.jsonl"
STEPS, KILLED_AT = 18, 11
BATCH = 4  # examples a step


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="  %(message).150s")
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder)) as server,
        ServiceClient(base_url=server.base_url, api_key="tml-local") as service,
    ):
        print(f"undisturbed: {STEPS} steps on {server.base_url}", flush=True)
        undisturbed = train(service)
        print(f"disturbed: the server is killed during step {KILLED_AT}", flush=True)
        disturbed = train(service, during={KILLED_AT: server.kill})
    print("\nstep  undisturbed  disturbed")
    for step in range(STEPS):
        print(f"{step:4}  {undisturbed[step]:11.6f}  {disturbed[step]:9.6f}")
    same = undisturbed == disturbed
    print(
        f"\nthe losses are {'the same, bit for bit' if same else 'NOT the same'} "
        f"({time.monotonic() - began:.0f} s)"
    )
    sys.exit(0 if same else 1)


def train(
    service: ServiceClient, during: dict[int, Callable[[], None]] | None = None
) -> list[float]:
    """Returns the loss of each step. Each call in `during` is made once, during its step."""
    disturbances = dict(during or {})
    trainer = service.create_lora_training_client("tinkex/tiny", rank=16, seed=0)
    batches = read_batches(trainer.get_tokenizer())
    run = service.create_recoverable_run(trainer, RecoveryPolicy(save_every_steps=4))
    losses = [0.0] * STEPS
    for step in run.steps(STEPS):
        try:
            under_way = run.trainer.train_step(
                batches[step], "cross_entropy", AdamParams(learning_rate=3e-3)
            )
            disturbances.pop(step, lambda: None)()
            losses[step] = under_way.result().forward_backward.metrics["loss:sum"]
        except TinkexError as error:
            run.recover(error)
    return losses


def read_batches(tokenizer: Tokenizer) -> Sequence[Sequence[Datum]]:
    """Returns the batch of a step, always the same one."""
    examples = [json.loads(line) for line in DATA.read_text().splitlines()]
    rng = random.Random(0)
    return [
        [to_datum(tokenizer, **example) for example in rng.sample(examples, BATCH)]
        for _ in range(STEPS)
    ]


def to_datum(tokenizer: Tokenizer, prompt: str, completion: str) -> Datum:
    """Makes a datum in which only the tokens of the completion have a weight."""
    before, after = tokenizer.encode(prompt), tokenizer.encode(completion + "\n")
    tokens = before + after
    weights = [0.0] * (len(before) - 1) + [1.0] * len(after)
    return Datum(
        ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": weights}
    )


class Server:
    """The embedded server in a process of its own, ended with the block."""

    def __init__(self, data_dir: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self._port}"
        self._data_dir = data_dir
        self._supervisor = Thread(target=lambda: None)

    def start(self) -> None:
        """Returns when it answers."""
        # `tinkex serve`
        serve = [sys.executable, "-c", "import tinkex.cli; tinkex.cli.main()", "serve"]
        options = ["--port", str(self._port), "--data-dir", str(self._data_dir)]
        self._process = subprocess.Popen([*serve, *options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            sys.exit("error: the embedded server did not start")

    def kill(self) -> None:
        """Kills the server by SIGKILL, before it can save, and restarts it in the background."""
        self._end()
        self._supervisor = Thread(target=self.start)
        self._supervisor.start()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._supervisor.join()
        self._end()


if __name__ == "__main__":
    main()

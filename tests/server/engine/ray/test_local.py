"""`tinkex serve --ray` without an address: a cluster of its own, which ends with the server."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="ray is not installed: `make test-ray` tests with it")

from tests.support.batches import datum
from tests.support.programs import running
from tests.support.wait_until import wait_until
from tinkex import AdamParams, ServiceClient

BASE = "fake/base"
SECONDS = 120
LOOPBACK = "0100007F"
LISTENS = "0A"  # the state, as the kernel writes it


def test_the_server_starts_a_cluster_trains_on_it_and_ends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tinkex", "serve", "--ray", "--samplers=2", "--engine=fake"]
    command += [f"--model={BASE}", "--port=0", f"--data-dir={tmp_path}"]
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        url = process.stdout.readline().split()[2]
        ready = next(line for line in process.stdout if line.startswith("Ready"))
        assert "Ray with 1 node, 2 samplers for each model, the fake engine" in ready
        with ServiceClient(url, "tml-test") as service:
            trainer = service.create_lora_training_client(BASE, rank=4)
            step = trainer.forward_backward([datum(5, 6)], "cross_entropy")
            trainer.optim_step(AdamParams()).result(SECONDS)
            assert step.result(SECONDS).metrics["loss:sum"] > 0
            sampler = trainer.save_weights_and_get_sampling_client()
            assert sampler.sample([5], 1, {"max_tokens": 3}).result(SECONDS).sequences[0].tokens
        started = descendants(process.pid)
        assert len(started) > 5, "the processes of Ray, and three actors"
        assert listening_addresses([process.pid, *started]) == {LOOPBACK}
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    wait_until(lambda: not any(is_alive(pid) for pid in started), SECONDS)


def descendants(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child, *descendants(child)]
    return found


def listening_addresses(pids: list[int]) -> set[str]:
    """Returns the IPv4 addresses that these processes listen on, as the kernel writes them."""
    sockets = {
        link.readlink().name
        for pid in pids
        for link in Path(f"/proc/{pid}/fd").glob("*")
        if link.is_symlink() and str(link.readlink()).startswith("socket:")
    }
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        row[1].partition(":")[0]
        for row in rows
        if row[3] == LISTENS and f"socket:[{row[9]}]" in sockets
    }


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"

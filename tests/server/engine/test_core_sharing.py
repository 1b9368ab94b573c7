"""torch's threads spin while cores are free, and do not while others want them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest

from tinkex_server.engine.torch.core_sharing import CoreTime, SpinPolicy

# prints whether threads ceased to spin while others wanted the cores, and began again afterwards
_IN_A_CROWD = """
import os, subprocess, sys, threading, time
import torch
from tinkex_server.engine.torch.compute_thread import ComputeThread

compute = ComputeThread()
compute.share_cores()
sharing = compute._sharing

def names_of_threads():
    return {thread.name for thread in threading.enumerate()}

def compute_until(done):
    give_up = time.monotonic() + 60
    while not done() and time.monotonic() < give_up:
        compute.run(lambda: [torch.randn(400, 400).exp_() for _ in range(50)])
    return done()

busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(4 * len(os.sched_getaffinity(0)))]
try:
    print(compute_until(lambda: "tinkex-second-team" in names_of_threads()))
finally:
    for process in busy:
        process.kill()
        process.wait()
time.sleep(1.5)
print(compute_until(lambda: sharing.spins))
compute.close()
print({name for name in names_of_threads() if name.startswith("tinkex-")})
"""


class Observed:
    """A policy with a thread that wants a core all the time."""

    def __init__(self) -> None:
        self.policy = SpinPolicy()
        self.clock = 100.0
        self._so_far = CoreTime(0.0, 0.0)

    def after(self, seconds: float, waiting: float) -> bool:
        """Returns whether threads spin after so many seconds, of which this share was waited."""
        self._so_far = CoreTime(
            self._so_far.ran + seconds * (1 - waiting), self._so_far.waited + seconds * waiting
        )
        self.clock += seconds
        return self.policy.observe(self._so_far, self.clock)


def test_threads_spin_unless_others_want_their_cores() -> None:
    observed = Observed()
    assert observed.after(1, waiting=0.1)
    assert not observed.after(0.2, waiting=0.5)
    assert not observed.after(0.9, waiting=0.0)
    assert observed.after(0.2, waiting=0.0)
    assert observed.after(0.2, waiting=0.0)


def test_a_moment_says_nothing() -> None:
    observed = Observed()
    assert observed.after(0.03, waiting=1.0)
    assert observed.after(0.1, waiting=0.0)


def test_many_moments_add_up() -> None:
    observed = Observed()
    assert not all(observed.after(0.03, waiting=0.5) for _ in range(4))


def test_tries_become_rare_while_the_cores_are_wanted() -> None:
    observed = Observed()
    spun = sum(observed.after(0.05, waiting=0.7) for _ in range(2000))  # 100 seconds
    assert 8 <= spun <= 30
    for _ in range(400):
        observed.after(0.05, waiting=0.0)
    # a crowd that comes later is a new one
    while observed.after(0.05, waiting=0.7):
        pass
    assert observed.after(1.0, waiting=0.0)


@pytest.mark.skipif(
    sys.platform != "linux" or multiprocessing.cpu_count() < 2, reason="needs /proc and two cores"
)
def test_a_crowd_is_noticed_and_so_is_its_end() -> None:
    said = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in said}
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_CROWD],
        env=environment,
        capture_output=True,
        check=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.split() == ["True", "True", "set()"]

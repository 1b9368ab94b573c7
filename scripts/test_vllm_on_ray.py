"""Trains by torch and samples by two real vLLMs that Ray places, on a random Qwen3: `make
test-vllm-on-ray`. Kills one of them under samples. Set VLLM_PYTHON to use an environment of yours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray_environment import environment, python_with_ray
from test_vllm import (
    BOUND,
    RANDOM,
    check_prompt_scores,
    check_samples,
    check_settings,
    measure,
    must,
    report,
    trained,
    worst_of,
)
from vllm_environment import Served, children, make_random_qwen3, python_with_vllm, served

import tinkex

SAMPLERS = 2
SERVER = "vllm.entrypoints"  # in the command line of each vLLM
STARTS_WITHIN = 900  # seconds
UNDER_WAY = 32  # samples


def main() -> int:
    inner = "--in-ray-environment"
    if inner not in sys.argv:
        command = [python_with_ray(), __file__, inner]
        variables = {**environment(), "VLLM_PYTHON": python_with_vllm()}
        return subprocess.run(command, env=variables, check=False).returncode
    with tempfile.TemporaryDirectory(prefix="tinkex-vllm-") as scratch:
        folder = Path(scratch)
        model = f"{RANDOM}={make_random_qwen3(folder / 'qwen3')}"
        fixed = ["--model", model, "--device", "cpu", "--dtype", "float32"]
        by_vllm = ["--sampler", "vllm", "--vllm-python", python_with_vllm()]
        on_ray = ["--ray", "--samplers", str(SAMPLERS)]
        with (
            served(folder / "ray", *fixed, *on_ray, *by_vllm) as vllms,
            served(folder / "torch", *fixed) as torch,
        ):
            try:
                compare(vllms, torch)
            except BaseException:
                print(vllms.log()[-6000:])
                raise
    print("passed")
    return 0


def compare(vllms: Served, torch: Served) -> None:
    with (
        tinkex.ServiceClient(base_url=torch.base_url, api_key="tml-test") as by_torch,
        tinkex.ServiceClient(base_url=vllms.base_url, api_key="tml-test") as by_vllm,
    ):
        report(f"ready after {vllms.ready_after:.1f} s (torch {torch.ready_after:.1f} s)")
        report(vllms.runs_on)
        sampler = trained(by_vllm, RANDOM).save_weights_and_get_sampling_client()
        reference = trained(by_torch, RANDOM).save_weights_and_get_sampling_client()
        await_vllms(vllms, SAMPLERS, set())
        measure(f"{SAMPLERS} vLLMs on Ray", sampler)
        check_samples(RANDOM, sampler, reference)
        check_settings(RANDOM, sampler)
        check_prompt_scores(RANDOM, sampler, reference)
        check_death(vllms, sampler)


def check_death(vllms: Served, sampler: tinkex.SamplingClient) -> None:
    params = tinkex.SamplingParams(max_tokens=64, stop=[])
    prompt = tinkex.ModelInput.from_ints(list(b"Once upon a time"))
    running = children(vllms.process.pid, SERVER)
    samples = [sampler.sample(prompt, 1, params) for _ in range(UNDER_WAY)]
    began = time.monotonic()
    os.kill(running[0], signal.SIGKILL)
    lengths = {len(sample.result(STARTS_WITHIN).sequences[0].tokens) for sample in samples}
    took = time.monotonic() - began
    must(lengths == {64}, f"kill -9 of one vLLM under {UNDER_WAY} samples: all after {took:.0f} s")
    await_vllms(vllms, SAMPLERS, {running[0]})
    report(f"another vLLM is running {time.monotonic() - began:.0f} s after the kill")
    worst = worst_of([sampler] * UNDER_WAY)
    must(worst < BOUND, f"{UNDER_WAY} samples differ by at most {worst:.1g} from torch's scores")


def await_vllms(vllms: Served, number: int, but: set[int]) -> None:
    """Waits until so many vLLMs run, without those that were killed."""
    deadline = time.monotonic() + STARTS_WITHIN
    while len(set(children(vllms.process.pid, SERVER)) - but) < number:
        if time.monotonic() > deadline:
            raise SystemExit(f"there are no {number} vLLMs after {STARTS_WITHIN} s")
        time.sleep(0.5)  # between two looks at the processes


if __name__ == "__main__":
    sys.exit(main())

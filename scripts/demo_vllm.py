"""Trains by torch and samples by vLLM, in a few lines of output: `make demo-vllm`. Set VLLM_PYTHON
to use an environment of yours.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from vllm_environment import python_with_vllm, served

import tinkex
from tinkex import Datum, ModelInput, SamplingParams

TEXT = "Once upon a time there was a fox who learned to sample."
BASE = "tinkex/tiny"


def main() -> None:
    python = python_with_vllm()
    print("starting torch, which trains, and vLLM, which samples", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="tinkex-demo-") as folder,
        served(Path(folder) / "server", *("--sampler", "vllm", "--vllm-python", python)) as server,
        tinkex.ServiceClient(base_url=server.base_url, api_key="tml-demo") as service,
    ):
        print(f"ready after {server.ready_after:.0f} s: {server.runs_on}", flush=True)
        trainer = service.create_lora_training_client(BASE, rank=16, seed=1)
        tokens = list(TEXT.encode())
        datum = Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})
        prompt = ModelInput.from_ints(tokens[:17])
        for steps in (0, 10, 10):
            loss = 0.0
            for _ in range(steps):
                result = trainer.forward_backward([datum], "cross_entropy").result()
                loss = result.metrics["loss:sum"]
                trainer.optim_step(tinkex.AdamParams(learning_rate=5e-3)).result()
            sampler = trainer.save_weights_and_get_sampling_client()
            greedy = SamplingParams(max_tokens=38, temperature=0.0)
            sequence = sampler.sample(prompt, 1, greedy).result().sequences[0]
            said = bytes(token for token in sequence.tokens if token < 256).decode(errors="replace")
            trained = f"{steps} steps, loss {loss:.1f}" if steps else "untrained"
            print(f"{trained:>22}: {TEXT[:17]}|{said!r}", flush=True)
        began = time.monotonic()
        params = SamplingParams(max_tokens=100, stop=[])
        samples = [sampler.sample(prompt, 1, params) for _ in range(64)]
        count = sum(len(sample.result().sequences[0].tokens) for sample in samples)
        speed = count / (time.monotonic() - began)
        print(f"64 samples at once by the last adapter: {speed:,.0f} tokens/s")


if __name__ == "__main__":
    main()

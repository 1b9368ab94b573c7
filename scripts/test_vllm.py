"""Trains by torch and samples by a real vLLM through `tinkex serve --sampler vllm`: `make
test-vllm`, on a random Qwen3 and on tinkex/tiny, or on the one named as argument. Prints what was
compared, and figures. Set VLLM_PYTHON to use an environment of yours.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from random_qwen3 import make_random_qwen3
from vllm_environment import Served, children, python_with_vllm, served

import tinkex
from tinkex import Datum, ModelInput, SamplingParams

RANDOM, TINY = "random/qwen3", "tinkex/tiny"
BOUND = 1e-3  # nats, between equal weights in float32
ADAPTERS = 32
FEW = "--max-loras 2 --max-cpu-loras 4"  # so that vLLM drops adapters and reads them again
PROMPT = ModelInput.from_ints(list(b"Once upon a time"))
ENDLESS = SamplingParams(max_tokens=48, temperature=0.0, stop=[])


def main() -> int:
    python = python_with_vllm()
    with tempfile.TemporaryDirectory(prefix="tinkex-vllm-") as scratch:
        folder = Path(scratch)
        qwen3 = folder / "qwen3"
        # of weights so large that its tokens differ
        make_random_qwen3(
            qwen3, seed=1, intermediate_size=192, num_hidden_layers=4, initializer_range=0.15
        )
        bases = {RANDOM: f"{RANDOM}={qwen3}", TINY: TINY}
        for base in sys.argv[1:] or bases:
            fixed = ["--model", bases[base], "--device", "cpu", "--dtype", "float32"]
            by_vllm = ["--sampler", "vllm", "--vllm-python", python, "--vllm-args", FEW]
            with (
                served(folder / base / "vllm", *fixed, *by_vllm) as vllm,
                served(folder / base / "torch", *fixed) as torch,
            ):
                try:
                    compare(base, vllm, torch)
                except BaseException:
                    print(vllm.log()[-6000:])
                    raise
    print("passed")
    return 0


def compare(base: str, vllm: Served, torch: Served) -> None:
    with (
        tinkex.ServiceClient(base_url=torch.base_url, api_key="tml-test") as by_torch,
        tinkex.ServiceClient(base_url=vllm.base_url, api_key="tml-test") as by_vllm,
    ):
        report(f"{base}: ready after {vllm.ready_after:.1f} s (torch {torch.ready_after:.1f} s)")
        report(vllm.runs_on)
        sampler = trained(by_vllm, base).save_weights_and_get_sampling_client()
        reference = trained(by_torch, base).save_weights_and_get_sampling_client()
        measure("vLLM", sampler)
        measure("torch", reference)
        check_samples(base, sampler, reference)
        check_settings(base, sampler)
        check_prompt_scores(base, sampler, reference)
        if base == TINY:
            samplers = check_many_adapters(by_vllm)
            for killed in ("vllm.entrypoints", "EngineCore"):
                check_death(vllm, samplers, killed)


def trained(
    service: tinkex.ServiceClient, base: str, steps: int = 4, seed: int = 1
) -> tinkex.TrainingClient:
    client = service.create_lora_training_client(base, rank=16, seed=seed)
    tokens = list(b"Once upon a time there was a fox who learned to sample.")
    datum = Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})
    for _ in range(steps):
        client.forward_backward([datum], "cross_entropy")
        client.optim_step(tinkex.AdamParams(learning_rate=0.01)).result()
    return client


def check_samples(
    base: str, sampler: tinkex.SamplingClient, reference: tinkex.SamplingClient
) -> None:
    one = sampler.sample(PROMPT, 1, ENDLESS).result().sequences[0]
    other = reference.sample(PROMPT, 1, ENDLESS).result().sequences[0]
    must(list(one.tokens) == list(other.tokens), f"greedy tokens of an adapter on {base}")
    worst = max(map(difference, one.logprobs, other.logprobs))
    must(worst < BOUND, f"their logprobs differ by {worst:.1g}")
    warm = SamplingParams(max_tokens=48, temperature=0.7, top_k=20, top_p=0.9, seed=4, stop=[])
    worst = max(
        rescored(reference, sequence)
        for sequence in sampler.sample(PROMPT, 4, warm).result().sequences
    )
    must(worst < BOUND, f"4 samples at temperature 0.7 with top_k: differ by {worst:.1g}")


def check_settings(base: str, sampler: tinkex.SamplingClient) -> None:
    seeded = SamplingParams(max_tokens=24, seed=9, stop=[])
    alone = tokens_of(sampler.sample(PROMPT, 2, seeded).result())
    crowd = [sampler.sample(PROMPT, 1, SamplingParams(max_tokens=64, stop=[])) for _ in range(16)]
    among = tokens_of(sampler.sample(PROMPT, 2, seeded).result())
    must(alone == among, f"a seed gives the same on {base}, alone and among 16 others")
    must(alone[0] != alone[1], "both samples of a seed differ")
    other = SamplingParams(max_tokens=24, seed=10, stop=[])
    must(alone != tokens_of(sampler.sample(PROMPT, 2, other).result()), "another seed differs")
    for one in crowd:
        one.result()
    first = alone[0]
    stop = first[5]
    stopped = SamplingParams(max_tokens=24, seed=9, stop=[stop])
    sequence = sampler.sample(PROMPT, 1, stopped).result().sequences[0]
    must(
        list(sequence.tokens) == first[: first.index(stop) + 1] and sequence.stop_reason == "stop",
        "a stop token ends a sample, and is its last token",
    )
    greedy = list(sampler.sample(PROMPT, 1, ENDLESS).result().sequences[0].tokens)
    ascii_pair = next(
        (
            bytes(greedy[at : at + 2]).decode()
            for at in range(2, 40)
            if max(greedy[at : at + 2]) < 128
        ),
        None,
    )
    if ascii_pair:  # random weights may give bytes that are no text
        by_text = SamplingParams(max_tokens=48, temperature=0.0, stop=ascii_pair)
        ended = sampler.sample(PROMPT, 1, by_text).result().sequences[0]
        text = bytes(token for token in ended.tokens if token < 256).decode(errors="replace")
        must(
            text.endswith(ascii_pair) and ascii_pair not in text[:-1],
            f"the stop string {ascii_pair!r} ends a sample where it is complete",
        )
    streamed = [token for part in sampler.sample_stream(PROMPT, ENDLESS) for token in part.tokens]
    must(streamed == greedy, "a stream gives the tokens of the whole sample")


def check_prompt_scores(
    base: str, sampler: tinkex.SamplingClient, reference: tinkex.SamplingClient
) -> None:
    params = SamplingParams(max_tokens=8, seed=1)
    one, other = (
        client.sample(
            PROMPT, 2, params, include_prompt_logprobs=True, topk_prompt_logprobs=3
        ).result()
        for client in (sampler, reference)
    )
    must(
        one.prompt_logprobs == other.prompt_logprobs
        and one.topk_prompt_logprobs == other.topk_prompt_logprobs
        and len(one.sequences) == 2,
        f"prompt logprobs with top 3 on {base}, beside 2 samples",
    )


def check_many_adapters(service: tinkex.ServiceClient) -> Sequence[tinkex.SamplingClient]:
    trainer = trained(service, TINY, steps=1, seed=2)
    tokens = list(b"many adapters, each of them one step further")
    datum = Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})
    samplers: list[tinkex.SamplingClient] = []
    for _ in range(ADAPTERS):
        trainer.forward_backward([datum], "cross_entropy")
        trainer.optim_step(tinkex.AdamParams(learning_rate=0.01)).result()
        samplers.append(trainer.save_weights_and_get_sampling_client())
    worst = worst_of(samplers * 2)
    must(worst < BOUND, f"64 samples of {ADAPTERS} adapters at once ({FEW}): {worst:.1g}")
    return samplers


def check_death(vllm: Served, samplers: Sequence[tinkex.SamplingClient], killed: str) -> None:
    before = set(children(vllm.process.pid, "vllm.entrypoints"))
    victims = children(vllm.process.pid, killed)
    must(bool(victims), f"a process of {killed} runs")
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(worst_of, samplers * 4)
        time.sleep(1.0)  # for samples to be under way
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        worst = load.result(600)
    took = time.monotonic() - began
    after = set(children(vllm.process.pid, "vllm.entrypoints"))
    must(before.isdisjoint(after) and bool(after), "vLLM was started again")
    must(
        worst < BOUND,
        f"kill -9 of {killed} under {4 * len(samplers)} samples: all right after {took:.0f} s",
    )


def worst_of(samplers: Sequence[tinkex.SamplingClient]) -> float:
    """Samples by all at once; returns the largest difference from what the trainer gives to the
    same tokens.
    """
    params = SamplingParams(max_tokens=32, stop=[])
    results = [sampler.sample(PROMPT, 1, params) for sampler in samplers]
    return max(
        rescored(sampler, result.result().sequences[0])
        for sampler, result in zip(samplers, results, strict=True)
    )


def rescored(scorer: tinkex.SamplingClient, sequence: tinkex.SampledSequence) -> float:
    """Returns the largest difference of a sample's logprobs from those that torch gives."""
    prompt = PROMPT.to_ints()
    scores = scorer.compute_logprobs(ModelInput.from_ints([*prompt, *sequence.tokens])).result()
    return max(map(difference, sequence.logprobs, scores[len(prompt) :]))


def measure(name: str, sampler: tinkex.SamplingClient) -> None:
    for count in (1, 64):
        params = SamplingParams(max_tokens=200, stop=[])
        began = time.monotonic()
        results = [sampler.sample(PROMPT, 1, params) for _ in range(count)]
        tokens = sum(len(result.result().sequences[0].tokens) for result in results)
        speed = tokens / (time.monotonic() - began)
        report(f"{name}: {speed:,.0f} tokens/s with {count} sample{'s' * (count > 1)} at once")


def tokens_of(response: tinkex.SampleResponse) -> list[list[int]]:
    return [list(sequence.tokens) for sequence in response.sequences]


def difference(one: float, other: float | None) -> float:
    assert other is not None
    return abs(one - other)


def must(holds: bool, what: str) -> None:
    report(f"{'ok  ' if holds else 'FAIL'} {what}")
    if not holds:
        raise SystemExit(1)


def report(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())

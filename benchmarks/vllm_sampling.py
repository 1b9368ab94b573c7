"""Samples by vLLM, in the interpreter that has it: `vllm_sampling.py MODEL DTYPE PROMPT SAMPLED
ROUNDS COUNT…` prints as JSON the median seconds of each number of prompts at once, after a warm-up.

It imports nothing of ours, since that interpreter has none of it.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time

from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports, reportUnknownVariableType]


def main(
    model: str, dtype: str, prompt: int, sampled: int, rounds: int, counts: list[int]
) -> list[float]:
    llm = LLM(model=model, dtype=dtype, max_model_len=prompt + sampled)  # pyright: ignore[reportUnknownVariableType]
    params = SamplingParams(temperature=1.0, max_tokens=sampled, ignore_eos=True)  # pyright: ignore[reportUnknownVariableType]
    medians: list[float] = []
    for count in counts:
        taken: list[float] = []
        for _ in range(1 + rounds):
            prompts = [
                {"prompt_token_ids": [random.randrange(1, 256) for _ in range(prompt)]}
                for _ in range(count)
            ]
            began = time.perf_counter()
            outputs = llm.generate(prompts, params, use_tqdm=False)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            taken.append(time.perf_counter() - began)
            assert all(len(one.outputs[0].token_ids) == sampled for one in outputs)  # pyright: ignore
        medians.append(statistics.median(taken[1:]))
    return medians


if __name__ == "__main__":
    model, dtype, *sizes = sys.argv[1:]
    prompt, sampled, rounds, *counts = map(int, sizes)
    print(json.dumps(main(model, dtype, prompt, sampled, rounds, counts)))

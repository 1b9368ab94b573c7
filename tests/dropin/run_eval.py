"""Grades a model's answers by the cookbook's own benchmark: `run_eval.py MODEL CHECKPOINT OUT`."""

import asyncio
import json
import sys
from pathlib import Path

import tinker
from tinker_cookbook import renderers
from tinker_cookbook.eval.benchmarks import BenchmarkConfig, run_benchmark
from tinker_cookbook.tokenizer_utils import get_tokenizer


async def main(model: str, checkpoint: str, out: str) -> dict[str, float]:
    service = tinker.ServiceClient()
    sampler = await service.create_sampling_client_async(model_path=checkpoint)
    renderer = renderers.get_renderer("qwen3_disable_thinking", get_tokenizer(model))
    config = BenchmarkConfig(max_examples=8, max_tokens=16, temperature=0.0, save_dir=out)
    result = await run_benchmark("gsm8k", sampler, renderer, config)
    return {"score": result.score, "examples": result.num_examples}


if __name__ == "__main__":
    graded = asyncio.run(main(*sys.argv[1:]))
    Path(sys.argv[3], "metrics.jsonl").write_text(json.dumps(graded) + "\n")

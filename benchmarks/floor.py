"""Measures the least that a task costs: `floor.py TASK URL COUNT` does what no client can leave
out, and prints figures as `client.py` does.

For samples that is the HTTP library alone, with two requests for each; for a training step the
library that writes and reads the bytes, with numpy.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import numpy as np
import orjson
from tinkex_proto import tinker_pb2 as pb

from benchmarks.http_libraries import Sample, over_aiohttp, sampler
from benchmarks.in_flight import latencies
from benchmarks.server import RESULTS
from benchmarks.workload import DATUMS, IN_FLIGHT, STEPS, TRAINED_TOKENS, WARM_UP

_opened: list[object] = []
"""The connections, which stay open until the process ends."""


async def warm_sampler(url: str) -> Sample:
    sample = sampler(await over_aiohttp(), url)
    _opened.append(sample)
    await asyncio.gather(*(sample() for _ in range(WARM_UP)))
    return sample


async def run_sample(url: str, count: int) -> dict[str, float]:
    sample = await warm_sampler(url)
    began = time.process_time()
    await asyncio.gather(*(sample() for _ in range(count)))
    return {"cpu": (time.process_time() - began) / count}


async def run_latency(url: str, count: int) -> dict[str, float]:
    return await latencies(await warm_sampler(url), count, IN_FLIGHT)


async def run_step(url: str, _: int) -> dict[str, float]:
    as_json = url.endswith("/json")
    write, read = (write_json, read_json) if as_json else (write_protobuf, read_protobuf)
    name = "forward_backward of JSON" if as_json else "forward_backward"
    result = RESULTS[name].partition(b"\r\n\r\n")[2]
    tokens, weights = list(range(TRAINED_TOKENS + 1)), [1.0] * TRAINED_TOKENS
    began = time.process_time()
    for _ in range(STEPS):
        write(tokens, weights)
        read(result)
    return {"cpu": (time.process_time() - began) / STEPS}


def write_json(tokens: list[int], weights: list[float]) -> bytes:
    """Writes a batch from lists, each made an array, as a client must to check its numbers."""
    columns = {"target_tokens": tokens[1:], "weights": weights}
    datums = [
        {
            "model_input": {"chunks": [{"type": "encoded_text", "tokens": np.array(tokens[:-1])}]},
            "loss_fn_inputs": {
                name: {
                    "data": np.array(values),
                    "dtype": "float32" if name == "weights" else "int64",
                    "shape": [len(values)],
                }
                for name, values in columns.items()
            },
        }
        for _ in range(DATUMS)
    ]
    return orjson.dumps({"data": datums}, option=orjson.OPT_SERIALIZE_NUMPY)


def read_json(result: bytes) -> list[np.ndarray]:
    outputs = orjson.loads(result)["loss_fn_outputs"]
    return [np.array(one["logprobs"]["data"], np.float32) for one in outputs]


def write_protobuf(tokens: list[int], weights: list[float]) -> bytes:
    """Writes a batch from lists as one message, each list made an array."""
    batch = pb.ForwardBackwardRequest()
    for _ in range(DATUMS):
        datum = batch.data.add()
        datum.model_input.add().encoded_text.tokens = np.array(tokens[:-1], "<i4").tobytes()
        datum.loss_fn_inputs["target_tokens"].dense = np.array(tokens[1:], "<i8").tobytes()
        datum.loss_fn_inputs["weights"].dense = np.array(weights, "<f4").tobytes()
    return batch.SerializeToString()


def read_protobuf(result: bytes) -> list[np.ndarray]:
    [record] = pb.ForwardBackwardOutput.FromString(result).loss_fn_outputs
    column = record.fields["logprobs"]
    return np.split(np.frombuffer(column.data, "<f4"), DATUMS)


_TASKS = {"sample": run_sample, "latency": run_latency, "step": run_step}


async def main(task: str, url: str, count: str) -> None:
    print(json.dumps(await _TASKS[task](url, int(count))), flush=True)
    os._exit(0)  # connections that are still open are no part of what is measured


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

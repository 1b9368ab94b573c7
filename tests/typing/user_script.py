"""A program as a user writes it, with both facades: strict checkers find nothing wrong in it, but
for the lines that are marked. It is checked, and not run.

Both checkers report a mark on a line that is right, so that the marks show what they refuse.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
import torch

import tinkex
from tinkex import (
    AdamParams,
    APIFuture,
    Datum,
    ForwardBackwardOutput,
    ModelInput,
    SamplingParams,
    TensorData,
    types,
)

PROMPT = "What is six times seven?"
Losses = list[float]


def datum(tokenizer: tinkex.Tokenizer, prompt: str, answer: str) -> Datum:
    before = tokenizer.encode(prompt)
    after = tokenizer.encode(answer)
    tokens = before + after
    weights = [0.0] * len(before) + [1.0] * len(after)
    return Datum(
        model_input=ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": np.array(weights[1:], np.float32)},
    )


def torch_loss(
    data: list[Datum], logprobs: list[torch.Tensor]
) -> tuple[torch.Tensor, dict[str, float]]:
    weights = [one.loss_fn_inputs["weights"].to_torch() for one in data]
    loss = -sum((weight * logprob).sum() for weight, logprob in zip(weights, logprobs, strict=True))
    assert isinstance(loss, torch.Tensor)
    return loss, {"custom/datums": float(len(data))}


def clipped(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ratio = torch.exp(logprobs - old)
    return -(ratio * advantages).sum(), {"custom/ratio:mean": ratio.mean()}


def arrays(sampler: tinkex.SamplingClient, scores: torch.Tensor) -> list[Datum]:
    """Gives arrays in each form that is taken, and in some that are not."""
    rows = [[1.0, 0.0], [0.5, 0.5]]
    inputs: types.LossFnInputs = {"target_tokens": np.array([2, 3]), "weights": scores}
    data = [
        Datum(model_input=ModelInput.from_ints([1, 2]), loss_fn_inputs=inputs),
        Datum(model_input=[1, 2], loss_fn_inputs={"target_tokens": (2, 3), "weights": rows}),
        Datum(np.array([1, 2]), {"target_tokens": TensorData([2, 3]), "beta": 0.1}),
        Datum(torch.tensor([1, 2]), {"weights": [np.float32(1), np.float32(0)]}),
        Datum(range(2), {"weights": [scores, scores], "old": [np.zeros(2), np.zeros(2)]}),
    ]
    sampler.sample(np.array([1, 2]), 1, {"max_tokens": 4})
    sampler.sample(torch.tensor([1, 2]), 1, target_prompt_logprobs=[[1, 2]])
    sampler.sample({"tokens": [1, 2]}, 1)  # type: ignore[arg-type]
    sampler.sample(1, 1)  # type: ignore[arg-type]
    ModelInput.from_ints("one two")  # type: ignore[arg-type]
    TensorData(["one", "two"])  # type: ignore[arg-type]
    Datum([1], {"weights": "one"})  # type: ignore[dict-item]
    Datum([1], {"weights": {"one": 1.0}})  # type: ignore[dict-item]
    return data


def settings(service: tinkex.AsyncServiceClient) -> tinkex.Config:
    base_url: str = service.config.base_url
    timeout: float = service.config.timeout
    retries: tinkex.RetrySettings = service.config.retry
    config = tinkex.Config(base_url=None, api_key=lambda: "tml-key", dialect="skyrl", tags=["one"])
    tinkex.Config(base_url=base_url, timeout=timeout, retry=retries, default_headers={"a": "b"})
    tinkex.Config(base_url=1)  # pyright: ignore[reportArgumentType] # mypy does not see this one
    tinkex.Config(timeout="60")  # type: ignore[arg-type]
    tinkex.Config(tags=1)  # type: ignore[arg-type]
    return config


def train(trainer: tinkex.TrainingClient, data: list[Datum]) -> Losses:
    losses: Losses = []
    metrics: dict[str, float] = {}
    for _ in range(3):
        backward: APIFuture[ForwardBackwardOutput] = trainer.forward_backward(data, "cross_entropy")
        step = trainer.optim_step(AdamParams(learning_rate=1e-3))
        losses.append(backward.result().metrics["loss:sum"])
        metrics.update(step.result().metrics or {})
    trainer.forward_backward(data, "ppo", {"clip_low_threshold": 0.8}).result(timeout=60)
    custom = trainer.forward_backward_custom(data, torch_loss).result()
    per_token = [output["logprobs"].to_numpy() for output in custom.loss_fn_outputs]
    assert all(len(values.shape) == 1 for values in per_token)
    return losses


def sampled(sampler: tinkex.SamplingClient, tokenizer: tinkex.Tokenizer) -> list[str]:
    params = SamplingParams(max_tokens=16, temperature=0.7, stop=["\n"])
    warmer = params.model_copy(update={"temperature": 1.0})
    prompt = ModelInput.from_ints(tokenizer.encode(PROMPT))
    response = sampler.sample(prompt, num_samples=2, sampling_params=warmer).result()
    first: types.SampledSequence = response.sequences[0]
    logprobs: list[float] = first.logprobs or []
    tokens: list[int] = [*first.tokens, 0]
    assert len(tokens) == len(logprobs) + 1
    scores: list[float | None] = sampler.compute_logprobs(prompt).result()
    assert scores[0] is None
    many = sampler.sample_many([PROMPT, PROMPT], 1, {"max_tokens": 4})
    assert all(item.error is None for item in many)
    return [tokenizer.decode(sequence.tokens) for sequence in response.sequences]


def managed(service: tinkex.ServiceClient, run_id: str) -> Mapping[str, str]:
    rest = service.create_rest_client()
    checkpoints = rest.list_checkpoints(run_id).result().checkpoints
    newest: types.Checkpoint = max(checkpoints, key=lambda checkpoint: checkpoint.size_bytes or 0)
    rest.delete_checkpoint_from_tinker_path(newest.tinker_path).result()
    run = rest.get_training_run(run_id)
    return run.user_metadata or {}


def blocking() -> None:
    with tinkex.ServiceClient(base_url="http://127.0.0.1:8765", timeout=30.0) as service:
        trainer = service.create_lora_training_client(
            "tinkex/tiny", rank=8, user_metadata={"run": "1"}
        )
        tokenizer = trainer.get_tokenizer()
        data = [datum(tokenizer, PROMPT, " 42\n")]
        print(train(trainer, data), managed(service, trainer.model_id))
        handle = service.create_custom_loss(clipped, {"logprobs": 1, "old": 1, "advantages": 1})
        trainer.forward_backward_custom(data, handle).result()
        print(sampled(trainer.save_weights_and_get_sampling_client(), tokenizer))
        try:
            trainer.save_state("first").result()
        except tinkex.ConflictError as error:
            print(error.status_code, error.advice)


async def asynchronous() -> TensorData:
    async with tinkex.AsyncServiceClient(base_url="http://127.0.0.1:8765") as service:
        trainer = await service.create_lora_training_client("tinkex/tiny", rank=8)
        data = [datum(await trainer.get_tokenizer(), PROMPT, " 42\n")]
        backward = trainer.forward_backward(data, loss_fn="importance_sampling")
        step = trainer.optim_step(AdamParams(learning_rate=1e-3))
        await step
        custom = await trainer.forward_backward_custom(data, torch_loss)
        sampler = await trainer.save_weights_and_get_sampling_client()
        responses = await asyncio.gather(
            *(sampler.sample(PROMPT, 1, {"max_tokens": 4}) for _ in range(2))
        )
        async for piece in sampler.sample_stream(PROMPT, SamplingParams(max_tokens=4)):
            print(piece.tokens)
        print(len(responses), custom.metrics)
        return (await backward).loss_fn_outputs[0]["logprobs"]


if __name__ == "__main__":
    blocking()
    asyncio.run(asynchronous())

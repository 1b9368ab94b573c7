"""Trains as two frameworks do that no registry has, rllm and CLaaS, with the calls of `tinker` that
are in their sources: `frameworks.py MODEL CHECKPOINT OUT`.

Both await a submission and then its result; rllm flattens prompts to lists of tokens, CLaaS scores
answers with the base model and renders prompts with the template of the tokenizer.
"""

import asyncio
import json
import sys
from pathlib import Path

import tinker
from tinker import types
from tinker.types.tensor_data import TensorData
from tinker_cookbook.supervised.common import (
    create_rightshifted_model_input_and_leftshifted_targets,
)

STEPS = 3


def datum(chunks, prompt_length, logprobs, advantages):
    """Returns a Datum of all chunks; the last `len(logprobs)` tokens were sampled."""
    model_input, targets = create_rightshifted_model_input_and_leftshifted_targets(chunks)
    padding = [0.0] * (prompt_length - 1)
    made = tinker.Datum(
        model_input=model_input,
        loss_fn_inputs={
            "target_tokens": TensorData(data=targets, dtype="int64"),
            "logprobs": TensorData(data=padding + logprobs, dtype="float32"),
            "advantages": TensorData(data=padding + advantages, dtype="float32"),
            "mask": TensorData(data=padding + [1.0] * len(logprobs), dtype="float32"),
        },
    )
    sampled = [place for place, count in enumerate(made.loss_fn_inputs["mask"].data) if count > 0.5]
    assert sampled == list(range(prompt_length - 1, prompt_length - 1 + len(logprobs)))
    return tinker.Datum(
        model_input=made.model_input,
        loss_fn_inputs={name: v for name, v in made.loss_fn_inputs.items() if name != "mask"},
    )


async def main(model: str, checkpoint: str) -> list[dict[str, float]]:
    service = tinker.ServiceClient()
    await service.get_server_capabilities_async()
    trainer = await service.create_training_client_from_state_async(checkpoint)
    teacher = await service.create_sampling_client_async(base_model=model)
    tokenizer = trainer.get_tokenizer()
    chat = [{"role": "user", "content": "What is 4 + 5?"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    answer = tokenizer.encode("9<|im_end|>", add_special_tokens=False)
    scores = await teacher.compute_logprobs_async(types.ModelInput.from_ints(prompt + answer))
    behaviour = [0.0 if score is None else score for score in scores[len(prompt) :]]
    chunks = [types.EncodedTextChunk(tokens=prompt), types.EncodedTextChunk(tokens=answer)]
    flat = [token for chunk in chunks for token in chunk.tokens]
    assert flat[: len(prompt)] == prompt
    batch = [datum(chunks, len(prompt), behaviour, [1.0] * len(answer))]

    steps = []
    for number in range(STEPS):
        forward = await trainer.forward_backward_async(batch, loss_fn="importance_sampling")
        update = await trainer.optim_step_async(
            types.AdamParams(learning_rate=1e-3, beta1=0.9, beta2=0.95, eps=1e-8)
        )
        result = await forward.result_async()
        applied = await update.result_async()
        logprobs = result.loss_fn_outputs[0]["logprobs"].to_torch()[-len(answer) :]
        steps.append({"loss": -logprobs.mean().item(), "step": number, **(applied.metrics or {})})

    saved = await (await trainer.save_weights_for_sampler_async(name="000001")).result_async()
    sampler = service.create_sampling_client(model_path=saved.path)
    greedy = types.SamplingParams(max_tokens=4, temperature=0.0)
    sampled = await sampler.sample_async(
        prompt=tinker.ModelInput.from_ints(prompt), num_samples=1, sampling_params=greedy
    )
    [sequence] = sampled.sequences
    assert isinstance(sampled, types.SampleResponse)
    assert isinstance(sequence, types.SampledSequence)
    assert len(sequence.tokens) == len(sequence.logprobs) <= 4
    return [{**step, "sampler_path": saved.path} for step in steps]


if __name__ == "__main__":
    out = Path(sys.argv[3])
    out.mkdir(parents=True)
    steps = asyncio.run(main(*sys.argv[1:3]))
    (out / "checkpoints.jsonl").write_text(json.dumps({"sampler_path": steps[0]["sampler_path"]}))
    (out / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))

"""Does what programs do with the official SDK, with both packages on one server: `idioms.py URL`.
Run by scripts/test_clients.py.

Each idiom is a function of the package and of clients that it made; what it returns, where it is
not None, must be equal for both.
"""

import asyncio
import concurrent.futures
import dataclasses
import importlib
import json
import pickle
import sys
import traceback
import warnings

import numpy as np
import pydantic
from ending import end
from tinker.lib.retry_handler import RetryConfig

warnings.simplefilter("ignore")  # the deprecations of the official SDK
KEY = "tml-local"
MODEL = "tinkex/tiny"
TEXT = list(b"forty two is 42\n")
OF_THE_EMBEDDED_SERVER = {"origins", "continued_by"}
"""Fields of a training run that tinkex has besides the official ones (openapi/, extensions)."""
IDIOMS = []


def idiom(function):
    IDIOMS.append(function)
    return function


class Given:
    """The clients of one package, and what most idioms need."""

    def __init__(self, sdk, url):
        self.sdk, self.url = sdk, url
        self.service = sdk.ServiceClient(base_url=url, api_key=KEY)
        self.trainer = self.service.create_lora_training_client(MODEL, rank=4, seed=1)
        self.sampler = self.service.create_sampling_client(base_model=MODEL)
        self.rest = sdk.RestClient(base_url=url, api_key=KEY)
        self.greedy = sdk.SamplingParams(max_tokens=3, temperature=0.0)
        self.prompt = sdk.ModelInput.from_ints(TEXT[:8])
        inputs = {"target_tokens": TEXT[1:], "weights": [1.0] * (len(TEXT) - 1)}
        self.datum = sdk.Datum(
            model_input=sdk.ModelInput.from_ints(TEXT[:-1]), loss_fn_inputs=inputs
        )
        self.path = self.trainer.save_state("first").result().path
        self.run_id = self.path.split("/")[2]


# ---- futures and values ----


@idiom
def a_client_by_its_future(g):
    trainer = g.service.create_lora_training_client(MODEL, rank=4).result()
    return type(trainer.forward([g.datum], "cross_entropy").result()).__name__


@idiom
def a_sampling_client_by_its_future(g):
    return len(
        g.service.create_sampling_client(base_model=MODEL)
        .result()
        .sample(g.prompt, 1, g.greedy)
        .result()
        .sequences
    )


@idiom
def rest_calls_by_their_futures(g):
    listed = g.rest.list_checkpoints(g.run_id).result()
    assert g.run_id in [
        run.training_run_id for run in g.rest.list_training_runs().result().training_runs
    ]
    assert g.rest.get_weights_info_by_tinker_path(g.path).result(timeout=60).lora_rank == 4
    assert g.rest.get_server_capabilities().result().supported_models
    assert g.rest.list_sessions().result().sessions
    assert g.rest.list_user_checkpoints(limit=5).result().checkpoints
    return [checkpoint.checkpoint_id for checkpoint in listed.checkpoints]


@idiom
def rest_calls_that_give_nothing(g):
    assert g.rest.set_checkpoint_ttl_from_tinker_path(g.path, 3600).result() is None
    assert g.rest.publish_checkpoint_from_tinker_path(g.path).result() is None
    assert g.rest.unpublish_checkpoint_from_tinker_path(g.path).result() is None


@idiom
def rest_calls_awaited(g):
    async def main():
        run = await g.rest.get_training_run(g.run_id)
        again = await g.rest.get_training_run(g.run_id).result_async()
        return run.base_model, again.lora_rank

    return asyncio.run(main())


@idiom
def clients_awaited(g):
    async def main():
        sampler = await g.service.create_sampling_client(base_model=MODEL)
        response = await sampler.sample(g.prompt, 1, g.greedy)
        return len(response.sequences)

    return asyncio.run(main())


@idiom
def twins_awaited(g):
    async def main():
        sampler = await g.service.create_sampling_client_async(base_model=MODEL)
        forward = await g.trainer.forward_async([g.datum], "cross_entropy")
        return len((await sampler.sample_async(g.prompt, 1, g.greedy)).sequences), len(
            (await forward).loss_fn_outputs
        )

    return asyncio.run(main())


@idiom
def a_coroutine_of_a_future(g):
    return len(asyncio.run(g.sampler.sample(g.prompt, 1, g.greedy).coroutine()).sequences)


@idiom
def futures_gathered(g):
    async def main():
        return await asyncio.gather(*(g.sampler.sample(g.prompt, 1, g.greedy) for _ in range(3)))

    return len(asyncio.run(main()))


@idiom
def futures_of_the_standard_library(g):
    futures = [g.sampler.sample(g.prompt, 1, g.greedy).future() for _ in range(3)]
    return len(concurrent.futures.wait(futures, timeout=60).done)


@idiom
def a_step_pipelined(g):
    backward = g.trainer.forward_backward([g.datum], "cross_entropy")
    step = g.trainer.optim_step(g.sdk.AdamParams(learning_rate=0.0))
    return backward.result().loss_fn_output_type, type(step.result()).__name__


# ---- lists ----


@idiom
def tokens_added(g):
    tokenizer = g.trainer.get_tokenizer()
    tokens = tokenizer.encode("forty ", add_special_tokens=False) + tokenizer.encode(
        "two", add_special_tokens=False
    )
    return tokens, tokenizer.decode(tokens)


@idiom
def what_a_tokenizer_says(g):
    tokenizer = g.sampler.get_tokenizer()
    return (
        tokenizer.eos_token_id,
        tokenizer("forty")["input_ids"][-1],
        isinstance(tokenizer.name_or_path, str),
    )


@idiom
def chunks_tokens_are_a_list(g):
    chunk = g.sdk.EncodedTextChunk(tokens=[1, 2, 3])
    assert chunk.tokens + [4] == [1, 2, 3, 4]
    assert bool(chunk.tokens)
    assert chunk.tokens == [1, 2, 3]
    return json.dumps(chunk.tokens), chunk.length


@idiom
def chunks_with_their_type(g):
    chunk = g.sdk.EncodedTextChunk(tokens=[1], type="encoded_text")
    prompt = g.sdk.ModelInput(chunks=[chunk])
    more = g.sdk.ModelInput(chunks=prompt.chunks + [chunk])
    return more.to_ints(), more.length, prompt.append(chunk).length, prompt.append_int(2).to_ints()


@idiom
def shapes_are_lists(g):
    tensor = g.sdk.TensorData(data=[1.0, 2.0, 3.0], dtype="float32", shape=[3])
    return tensor.shape == [3], tensor.data, tensor.tolist()


@idiom
def samples_are_lists(g):
    [sequence] = g.sampler.sample(g.prompt, 1, g.greedy).result().sequences
    assert len(sequence.tokens + [1]) == len(sequence.logprobs + [0.0])
    return json.dumps(sequence.tokens)


@idiom
def logprobs_of_a_prompt(g):
    logprobs = g.sampler.compute_logprobs(g.prompt).result()
    return logprobs[0], len(logprobs), isinstance(logprobs, list)


@idiom
def a_tensor_to_numpy_and_back(g):
    tensor = g.sdk.TensorData.from_numpy(np.array([[1, 2], [3, 4]]))
    return tensor.to_numpy().tolist(), tensor.dtype, tensor.shape


# ---- maps ----


@idiom
def metrics_updated(g):
    metrics = {"step": 1}
    metrics.update(g.trainer.forward_backward([g.datum], "cross_entropy").result().metrics)
    metrics.update(g.trainer.optim_step(g.sdk.AdamParams(learning_rate=0.0)).result().metrics or {})
    return "loss:sum" in metrics


@idiom
def metadata_read(g):
    trainer = g.service.create_lora_training_client(
        MODEL, rank=4, user_metadata={"step": "7"}
    ).result()
    run = g.rest.get_training_run(
        g.sdk.ParsedCheckpointTinkerPath.from_tinker_path(
            trainer.save_state("m").result().path
        ).training_run_id
    )
    metadata = run.result().user_metadata
    return metadata.get("step"), metadata.get("none"), dict(metadata)


@idiom
def outputs_by_name(g):
    [output] = g.trainer.forward([g.datum], "cross_entropy").result().loss_fn_outputs
    return sorted(output.keys())[-1:], output["logprobs"].shape


# ---- values ----


@idiom
def a_datum_replaced(g):
    other = dataclasses.replace(
        g.datum,
        loss_fn_inputs={
            **g.datum.loss_fn_inputs,
            "weights": g.sdk.TensorData.from_numpy(np.zeros(len(TEXT) - 1, np.float32)),
        },
    )
    return sum(other.loss_fn_inputs["weights"].data), other.model_input.to_ints()


@idiom
def parameters_copied(g):
    params = g.sdk.SamplingParams(max_tokens=4, stop=["a"])
    other = params.model_copy(update={"max_tokens": 8})
    return params.max_tokens, other.max_tokens, other.stop


@idiom
def parameters_written_and_read(g):
    params = g.sdk.AdamParams(learning_rate=1e-3, beta2=0.5)
    assert g.sdk.AdamParams.model_validate(params.model_dump()) == params
    assert g.sdk.AdamParams.model_validate_json(params.model_dump_json()) == params
    return params.model_dump(), g.sdk.SamplingParams(max_tokens=4).model_dump(exclude_none=True)


@idiom
def a_prompt_written_and_read(g):
    written = g.prompt.model_dump()
    return written, g.sdk.ModelInput.model_validate(written).to_ints()


@idiom
def answers_written(g):
    run = g.rest.get_training_run(g.run_id).result()
    written = run.model_dump(mode="json").keys() - OF_THE_EMBEDDED_SERVER
    return sorted(written), json.loads(run.model_dump_json())["base_model"]


@idiom
def types_as_fields(g):
    class Settings(pydantic.BaseModel):
        params: g.sdk.SamplingParams
        adam: g.sdk.AdamParams

    settings = Settings(params=g.greedy, adam={"learning_rate": 0.5})
    return settings.adam.learning_rate, settings.model_dump()["params"]["max_tokens"]


@idiom
def parameters_as_keys(g):
    return {g.sdk.AdamParams(learning_rate=0.5): 1}[g.sdk.AdamParams(learning_rate=0.5)]


@idiom
def a_path_parsed(g):
    parsed = g.sdk.ParsedCheckpointTinkerPath.from_tinker_path("tinker://run/weights/0001")
    return parsed.training_run_id, parsed.checkpoint_type, parsed.checkpoint_id


@idiom
def a_sampler_pickled(g):
    again = pickle.loads(pickle.dumps(g.service.create_sampling_client(base_model=MODEL).result()))
    return len(again.sample(g.prompt, 1, g.greedy).result().sequences)


@idiom
def a_sampler_by_its_handle(g):
    again = g.sdk.SamplingClient.from_sampler_handle(g.sampler.get_sampler_handle(), api_key=KEY)
    return len(again.sample(g.prompt, 1, g.greedy).result().sequences)


# ---- arguments ----


@idiom
def a_sampler_of_the_present_weights(g):
    sampler = g.trainer.save_weights_and_get_sampling_client(name="now")
    return len(sampler.result().sample(g.prompt, 2, g.greedy).result().sequences)


@idiom
def a_sampler_with_retries_of_its_own(g):
    sampler = g.service.create_sampling_client(
        base_model=MODEL, retry_config=RetryConfig(enable_retry_logic=False)
    )
    return len(
        sampler.result()
        .sample(prompt=g.prompt, num_samples=1, sampling_params=g.greedy)
        .result()
        .sequences
    )


@idiom
def settings_of_a_service(g):
    service = g.sdk.ServiceClient(
        user_metadata={"a": "b"},
        project_id=None,
        base_url=g.url,
        api_key=KEY,
        default_headers_overrides={"x-a": "1"},
    )
    with service:
        assert service.create_rest_client().get_server_capabilities().result().supported_models


@idiom
def a_service_closed_by_name(g):
    service = g.sdk.ServiceClient(base_url=g.url, api_key=KEY)
    service.create_sampling_client(base_model=MODEL).result()
    assert service.close(status="errored", detail="none").result() is None


@idiom
def training_resumed(g):
    trainer = g.service.create_training_client_from_state_with_optimizer(g.path).result()
    return trainer.get_info().lora_rank


@idiom
def an_optimizer_by_its_older_name(g):
    return type(
        g.trainer.optim_step(adam_params=g.sdk.AdamParams(learning_rate=0.0)).result()
    ).__name__


@idiom
def an_observer_called(g):
    assert g.sampler.result().on_queue_state_change is not None


# ---- errors ----


def raised(call, kind):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind}")


@idiom
def an_error_of_the_server(g):
    error = raised(lambda: g.rest.get_training_run("nobody").result(), g.sdk.APIStatusError)
    assert isinstance(error, g.sdk.NotFoundError)
    assert isinstance(error, g.sdk.APIError)
    return error.status_code, error.response.status_code, error.body


@idiom
def an_error_made(g):
    import httpx

    response = httpx.Response(429, request=httpx.Request("GET", g.url))
    error = g.sdk.RateLimitError("slow down", response=response, body=None)
    timeout = g.sdk.APITimeoutError(request=response.request)
    return error.status_code, error.message, isinstance(timeout, g.sdk.APIConnectionError)


@idiom
def an_empty_batch(g):
    raised(lambda: g.trainer.forward_backward([], "cross_entropy").result(), ValueError)


@idiom
def a_wrong_parameter(g):
    raised(lambda: g.sdk.AdamParams(lr=1.0), ValueError)
    raised(lambda: g.sdk.ModelInput.from_ints("text"), ValueError)


@idiom
def a_wrong_path(g):
    raised(lambda: g.sdk.ParsedCheckpointTinkerPath.from_tinker_path("no"), ValueError)


@idiom
def neither_model_nor_path(g):
    raised(lambda: g.service.create_sampling_client().result(), ValueError)


@idiom
def a_client_that_was_closed(g):
    service = g.sdk.ServiceClient(base_url=g.url, api_key=KEY)
    service.create_sampling_client(base_model=MODEL).result()
    service.close("success")
    raised(lambda: service.create_lora_training_client(MODEL, rank=4).result(), RuntimeError)


@idiom
def a_wait_that_is_over(g):
    long = g.sdk.SamplingParams(max_tokens=512, temperature=1.0, stop=[])
    raised(lambda: g.sampler.sample(g.prompt, 8, long).result(timeout=0.001), TimeoutError)


def main(url):
    there, here = (Given(importlib.import_module(name), url) for name in ("tinker", "tinkex"))
    failures = 0
    for function in IDIOMS:
        results = []
        for given in (there, here):
            try:
                results.append(function(given))
            except Exception as error:  # noqa: BLE001 - it is told
                failures += 1
                results.append(f"{type(error).__name__} with {given.sdk.__name__}")
                print(
                    f"{function.__name__}, {given.sdk.__name__}:",
                    *traceback.format_exception(error)[-4:],
                    sep="\n",
                )
        if results[0] != results[1]:
            failures += 1
            print(f"{function.__name__}: tinker {results[0]!r}, tinkex {results[1]!r}")
    print(f"{len(IDIOMS)} idioms with both packages, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    end(main(sys.argv[1]))

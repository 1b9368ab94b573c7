"""Does what programs do with `import tinker`, and prints what comes of it as JSON:
`dropin_idioms.py URL`.

scripts/test_clients.py runs it with the official SDK and with the drop-in, and compares. It holds
the idioms of idioms.py as well.
"""

import asyncio
import concurrent.futures
import contextlib
import copy
import importlib
import importlib.metadata
import inspect
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import traceback
import typing
import warnings
from concurrent.futures import Future
from pathlib import Path
from unittest import mock

import idioms
import numpy as np
import pydantic
import tinker
import torch
from ending import end
from idioms import KEY, MODEL, TEXT, Given, idiom, raised
from tinker import types
from tinker.lib.base_url import DEFAULT_BASE_URL
from tinker.lib.public_interfaces import APIFuture
from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture
from tinker.lib.public_interfaces.rest_client import RestClient
from tinker.lib.retry_handler import RetryConfig, is_retryable_status_code

warnings.simplefilter("ignore")  # deprecations
MODULES = """
    _exceptions _version auth lib.base_url lib.experimental lib.public_interfaces.admin_client
    lib.public_interfaces.custom_loss lib.public_interfaces.sampling_client
    lib.public_interfaces.service_client lib.public_interfaces.training_client
    lib.retryable_exception types.datum types.image_chunk types.model_input types.tensor_data
    types.sampling_params types.loss_fn_type types.stop_reason types.shared.untyped_api_future
    proto.tinker_public_pb2
"""


# ---- names ----


@idiom
def modules_imported(g):
    for name in MODULES.split():
        importlib.import_module(f"tinker.{name}")
    assert tinker.lib.public_interfaces.service_client.ServiceClient is tinker.ServiceClient
    assert tinker.types.image_chunk.ImageChunk is types.ImageChunk
    assert RestClient is tinker.RestClient
    assert Path(tinker.__file__).is_file()
    return DEFAULT_BASE_URL, tinker.__version__, tinker.__title__


@idiom
def names_of_all_kinds(g):
    from tinker import (  # noqa: F401 - that they are there
        AdamParams,
        BackcompatSamplingClientFuture,
        ExperimentalWarning,
        OptimParams,
        Timeout,
    )

    return (
        typing.get_args(types.LossFnType),
        typing.get_args(tinker.StopReason),
        typing.get_args(types.SamplingClientKind),
        typing.get_args(types.Severity),
        tinker.ModelID.__name__,
        [member.value for member in types.RequestErrorCategory],
        issubclass(tinker.ExperimentalWarning, FutureWarning),
    )


@idiom
def the_version_of_the_package(g):
    return importlib.metadata.version("tinker")


@idiom
def a_module_that_does_not_exist(g):
    raised(lambda: importlib.import_module("tinker.nothing_of_this_name"), ModuleNotFoundError)
    raised(lambda: exec("from tinker import NothingOfThisName"), ImportError)
    raised(lambda: tinker.NothingOfThisName, AttributeError)
    return hasattr(tinker, "NothingOfThisName"), importlib.util.find_spec("tinker") is not None


# ---- futures ----


@idiom
def kinds_of_futures(g):
    trainer = g.service.create_lora_training_client(MODEL, rank=4)
    sampler = g.service.create_sampling_client(base_model=MODEL)
    found = [
        (isinstance(one, APIFuture), isinstance(one, kind))
        for one, kind in (
            (trainer, tinker.TrainingClient),
            (sampler, tinker.SamplingClient),
            (trainer, tinker.BackcompatTrainingClientFuture),
            (sampler, tinker.BackcompatSamplingClientFuture),
            (trainer.result(), tinker.TrainingClient),
            (sampler.result(), tinker.SamplingClient),
            (g.rest.list_training_runs(), tinker.RestClient),
            (g.sampler.sample(g.prompt, 1, g.greedy), object),
            (g.trainer.forward([g.datum], "cross_entropy"), object),
            (g.trainer.save_state("kinds"), object),
        )
    ]
    return found, [type(client.result()).__name__ for client in (trainer, sampler)]


@idiom
def clients_made_at_once(g):
    async def main():
        trainers = await asyncio.gather(
            *(g.service.create_lora_training_client(MODEL, rank=4) for _ in range(3))
        )
        return len({trainer.model_id for trainer in trainers})

    return asyncio.run(main())


@idiom
def twins_of_all_clients(g):
    async def main():
        trainer = await g.service.create_lora_training_client_async(MODEL, rank=4)
        sampler = await trainer.save_weights_and_get_sampling_client_async()
        run = await g.rest.get_training_run_async(trainer.model_id)
        saved = await (await trainer.save_state_async("twin"))
        nothing = await g.rest.delete_checkpoint_from_tinker_path_async(saved.path)
        sampled = await sampler.sample_async(g.prompt, 1, g.greedy)
        return run.base_model, nothing, len(sampled.sequences), type(trainer).__name__

    return asyncio.run(main())


@idiom
def futures_of_ones_own(g):
    inner = Future()
    future = AwaitableConcurrentFuture(inner)
    raised(lambda: future.result(timeout=0), TimeoutError)
    inner.set_result(3)

    async def main():
        return await future, await future.result_async(1), await future.coroutine()

    class Now(APIFuture):
        def result(self, timeout=None):
            return 4

        async def result_async(self, timeout=None):
            return 4

        def future(self):
            raise NotImplementedError

    async def awaited():
        return await Now()

    return (
        asyncio.run(main()),
        future.result(),
        isinstance(future, APIFuture),
        asyncio.run(awaited()),
    )


@idiom
def an_error_by_a_future_of_a_client(g):
    error = raised(
        lambda: g.service.create_lora_training_client("nobody/nothing").result(), tinker.TinkerError
    )
    return isinstance(error, tinker.APIStatusError)


@idiom
def futures_of_samples_in_the_standard_library(g):
    def sampled():
        return [g.sampler.sample(g.prompt, 1, g.greedy), g.sampler.compute_logprobs(g.prompt)]

    async def main():
        return [type(await asyncio.wrap_future(future)).__name__ for future in sampled()]

    seen = []
    [first, _] = sampled()
    first.result(60)
    first.add_done_callback(lambda ended: seen.append(len(ended.result().sequences)))
    return (
        [isinstance(future, Future) for future in sampled()],
        len([*concurrent.futures.as_completed(sampled(), timeout=60)]),
        len(concurrent.futures.wait(sampled(), timeout=60).done),
        asyncio.run(main()),
        (first.done(), first.cancelled(), first.running(), first.cancel(), first.exception(), seen),
    )


@idiom
def futures_in_an_event_loop(g):
    async def main():
        loop = asyncio.get_running_loop()
        responses = [
            await asyncio.wait_for(g.sampler.sample_async(g.prompt, 1, g.greedy), timeout=60),
            await asyncio.wait_for(g.sampler.sample(g.prompt, 1, g.greedy), timeout=60),
            await asyncio.create_task(g.sampler.sample_async(g.prompt, 1, g.greedy)),
            await asyncio.ensure_future(g.sampler.sample(g.prompt, 1, g.greedy)),
            await asyncio.to_thread(g.sampler.sample(g.prompt, 1, g.greedy).result),
            await loop.run_in_executor(None, g.sampler.sample(g.prompt, 1, g.greedy).result, 60),
            g.sampler.sample(g.prompt, 1, g.greedy).result(),  # blocks the loop
        ]
        for ended in asyncio.as_completed([g.sampler.sample(g.prompt, 1, g.greedy)]):
            responses.append(await ended)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            sampling = g.sampler.sample_async(g.prompt, 1, g.greedy)
            responses.append(pool.submit(asyncio.run, sampling).result())
        return {tuple(response.sequences[0].tokens) for response in responses}

    return len(asyncio.run(main()))


@idiom
def a_sample_given_up(g):
    long = types.SamplingParams(max_tokens=512, temperature=1.0, stop=[])

    async def main():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(g.sampler.sample_async(g.prompt, 8, long), timeout=0.01)
            return "it ended"
        task = asyncio.create_task(g.sampler.sample_async(g.prompt, 8, long))
        await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            return "it ended"
        return len((await g.sampler.sample_async(g.prompt, 1, g.greedy)).sequences)

    return asyncio.run(main())


@idiom
def saves_gathered_twice(g):
    async def main():
        saved = await asyncio.gather(
            *await asyncio.gather(
                g.trainer.save_state_async("twice"),
                g.trainer.save_weights_for_sampler_async("twice"),
            )
        )
        backward = await g.trainer.forward_backward_async([g.datum], loss_fn="cross_entropy")
        step = await g.trainer.optim_step_async(adam_params=types.AdamParams(learning_rate=0.0))
        first, second = await asyncio.gather(backward, step)
        again = await (await g.trainer.forward_async([g.datum], "cross_entropy")).result_async()
        return (
            [one.path.split("/")[-2:] for one in saved],
            sorted({**first.metrics, **(second.metrics or {})})[:1],
            type(again).__name__,
        )

    return asyncio.run(main())


# ---- clients ----


@idiom
def the_session_behind_the_clients(g):
    session_id = g.service.holder.get_session_id()
    sampler = g.service.create_sampling_client(base_model=MODEL).result()
    service = tinker.ServiceClient(base_url=g.url, api_key=KEY)
    service.create_sampling_client(base_model=MODEL).result()
    service.holder.close()
    raised(lambda: service.create_lora_training_client(MODEL).result(), RuntimeError)
    return (
        session_id == g.service.holder._session_id == g.trainer.holder._session_id,
        g.trainer.model_id in g.rest.get_session(session_id).result().training_run_ids,
        g.rest.get_sampler(sampler._sampling_session_id).result().base_model,
    )


@idiom
def clients_derived_and_mocked(g):
    class Trainer(tinker.TrainingClient):
        def own(self):
            return 3

    class Rest(RestClient):
        def get_training_run_by_tinker_path(self, tinker_path, access_scope="owned"):
            return self.get_training_run(tinker_path.split("/")[2], access_scope=access_scope)

    class Service(tinker.ServiceClient):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.own = 4

    rest = Rest(base_url=g.url, api_key=KEY)
    service = Service(base_url=g.url, api_key=KEY)
    with mock.patch("tinker.ServiceClient") as made:
        assert tinker.ServiceClient is made
    with mock.patch("tinker.lib.public_interfaces.training_client.TrainingClient.save_state"):
        pass
    sampler = mock.create_autospec(tinker.SamplingClient, instance=True)
    trainer = mock.Mock(spec=tinker.TrainingClient)
    return (
        Trainer.__new__(Trainer).own(),
        rest.get_training_run_by_tinker_path(g.path).result().base_model,
        service.own,
        service.create_sampling_client(base_model=MODEL).result().get_base_model(),
        tinker.ServiceClient.__name__,
        isinstance(trainer, tinker.TrainingClient),
        inspect.iscoroutinefunction(sampler.sample_async),
        inspect.iscoroutinefunction(trainer.save_state_async),
    )


@idiom
def methods_replaced(g):
    sampler = g.service.create_sampling_client(base_model=MODEL).result()
    calls, real = [], tinker.SamplingClient.sample_async

    async def counted(self, *args, **kwargs):
        calls.append(1)
        return await real(self, *args, **kwargs)

    with mock.patch.object(tinker.SamplingClient, "sample_async", counted):
        asyncio.run(sampler.sample_async(g.prompt, 1, g.greedy))
        asyncio.run(g.sampler.sample_async(g.prompt, 1, g.greedy))
    sampler.sample_async = lambda *args, **kwargs: "of the instance"
    return (
        len(calls),
        sampler.sample_async(),
        asyncio.run(real(sampler, g.prompt, 1, g.greedy)) is None,
    )


@idiom
def metadata_in_the_first_place(g):
    service = tinker.ServiceClient({"team": "a"}, base_url=g.url, api_key=KEY)
    trainer = service.create_lora_training_client(MODEL, rank=4).result()
    session = g.rest.get_session(trainer.model_id.partition(":")[0]).result()
    service.close("success").result()
    return session.user_metadata, trainer.model_id in session.training_run_ids


@idiom
def an_argument_that_is_not_known(g):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tinker.ServiceClient(base_url=g.url, api_key=KEY, no_such_argument=1)
    return [issubclass(one.category, FutureWarning) for one in told]


@idiom
def what_else_clients_have(g):
    return (
        isinstance(g.service.get_console_url(), str),
        isinstance(g.trainer.get_console_url(), str),
        callable(g.trainer.get_telemetry),
        type(g.service.create_rest_client()).__name__,
        [model.model_name for model in g.service.get_server_capabilities().supported_models],
    )


@idiom
def an_observer_set(g):
    sampler = g.service.create_sampling_client(base_model=MODEL).result()
    sampler.on_queue_state_change = lambda state, reason: None
    return len(sampler.sample(g.prompt, 1, g.greedy).result().sequences)


@idiom
def settings_of_retries(g):
    config = RetryConfig(progress_timeout=600, retry_delay_base=0.1)
    sampler = g.service.create_sampling_client(base_model=MODEL, retry_config=config).result()
    assert sampler.sample(g.prompt, 1, g.greedy).result().sequences
    codes = [code for code in range(200, 600) if is_retryable_status_code(code)]
    assert TimeoutError in RetryConfig.retryable_exceptions
    return (
        codes,
        RetryConfig.progress_timeout,
        config.jitter_factor,
        config.enable_stuck_detection,
        RetryConfig().max_connections,
    )


def in_child(given):
    sampler, prompt, greedy, error = pickle.loads(given)
    response = sampler.sample(prompt, 1, greedy).result()
    return response.sequences[0].tokens, type(error).__name__, error.status_code


@idiom
def a_child_that_samples(g):
    error = raised(lambda: g.rest.get_training_run("x").result(), tinker.APIStatusError)
    given = pickle.dumps((g.sampler.result(), g.prompt, g.greedy, error))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(in_child, (given,))


@idiom
def a_loss_of_ones_own(g):
    def loss_fn(data, logprobs):
        return -sum(one.sum() for one in logprobs), {"n": float(len(data))}

    output = g.trainer.forward_backward_custom([g.datum], loss_fn).result()
    expected = g.trainer.forward([g.datum], "cross_entropy").result().metrics["loss:sum"]
    return (
        sorted(output.metrics)[:2],
        abs(output.metrics["loss:sum"] - expected) < 1e-2,
    )


@idiom
def the_command_started(g):
    command = Path(sys.executable).parent / "tinker"
    environment = os.environ | {"TINKER_BASE_URL": g.url, "TINKER_API_KEY": KEY}
    path = g.trainer.save_state("by-command").result().path

    def code(*words):
        ended = subprocess.run([command, *words], env=environment, capture_output=True, check=False)
        return ended.returncode

    return (
        code("checkpoint", "list", "--run-id", g.run_id),
        code("checkpoint", "info", path),
        code("checkpoint", "publish", path),
        code("checkpoint", "unpublish", path),
        code("-f", "json", "run", "list", "--limit", "2"),
        code("checkpoint", "set-ttl", path, "--ttl", "3600"),
        code("checkpoint", "delete", path, "--yes"),
        code("checkpoint", "info", path) != 0,
    )


# ---- values ----


@idiom
def tensors_of_torch(g):
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(tokens=TEXT[:3]),
        loss_fn_inputs={
            "target_tokens": torch.tensor(TEXT[1:4]),
            "weights": torch.ones(3),
            "advantages": types.TensorData.from_torch(torch.zeros(3, dtype=torch.bfloat16)),
        },
    )
    tensors = datum.loss_fn_inputs
    return {name: (one.dtype, one.shape, one.tolist()) for name, one in sorted(tensors.items())}


@idiom
def results_made(g):
    sequence = types.SampledSequence(
        stop_reason="stop", sequence_id="s", _tokens_list=[1, 2], _logprobs_list=[-0.5, -1.0]
    )
    response = types.SampleResponse(sequences=[sequence], _prompt_logprobs_list=[None, -1.0])
    [sampled] = g.sampler.sample(g.prompt, 1, g.greedy).result().sequences
    return (
        sequence.tokens,
        sequence.logprobs,
        response.prompt_logprobs,
        isinstance(sampled, tinker.SampledSequence),
        isinstance(sampled.tokens_np, np.ndarray),
    )


@idiom
def spans_of_a_datum(g):
    span = tinker.SampledProvenanceSpan(sequence_id="s", length=len(TEXT) - 1)
    datum = g.datum.with_provenance([span], [span])
    return datum.model_input_spans == [span], datum.loss_fn_input_spans[0].offset


@idiom
def pieces_of_prompts(g):
    chunks = [
        types.EncodedTextChunk(tokens=[1, 2]),
        types.ImageChunk(data=b"abc", format="png", expected_tokens=3),
        types.ImageAssetPointerChunk(location="a", format="jpeg", expected_tokens=2),
    ]
    prompt = types.ModelInput(chunks=chunks)
    assert isinstance(prompt.chunks, list)
    return prompt.length, [chunk.type for chunk in prompt.chunks], prompt.model_dump(mode="json")


@idiom
def kinds_of_one_class(g):
    return (
        types.OwnSearchOwner().model_dump(exclude_none=True),
        types.UserSearchOwner(owner_urns=["a"]).owner_urns,
        types.DimuonOptimizerConfig().model_dump(exclude_none=True),
        types.SessionFailedRequestReason(request_id="r", request_type="t").type,
    )


@idiom
def bodies_of_requests(g):
    made = (
        types.CreateModelRequest(
            session_id="s", model_seq_id=0, base_model="m", lora_config=types.LoraConfig(rank=4)
        ),
        types.OptimStepRequest(
            model_id="m", seq_id=1, adam_params=types.AdamParams(learning_rate=0.5)
        ),
        types.SampleRequest(
            prompt=g.prompt, sampling_params=g.greedy, num_samples=2, base_model="m"
        ),
        types.SaveWeightsForSamplerRequest(model_id="m", path="a", seq_id=2),
        types.FutureRetrieveRequest(request_id="r"),
    )
    return [
        {
            name: value
            for name, value in json.loads(one.model_dump_json(exclude_none=True)).items()
            if name in ("session_id", "base_model", "model_id", "seq_id", "path", "request_id")
        }
        for one in made
    ]


@idiom
def the_fields_of_values(g):
    params = types.SamplingParams(max_tokens=4, stop=["a"])
    [text] = types.ModelInput.from_ints([1, 2]).model_dump()["chunks"]
    return (
        sorted(types.SamplingParams.model_fields),
        sorted(dict(params)),
        params.model_dump(exclude_unset=True),
        params.model_dump(exclude_defaults=True, by_alias=True),
        json.loads(params.model_dump_json(exclude_unset=True)),
        types.SamplingParams.model_construct(max_tokens=3).max_tokens,
        sorted(types.AdamParams.model_json_schema()["properties"]),
        types.ModelInput(chunks=[text, {"tokens": [3]}]).to_ints(),
        types.ModelInput(**types.ModelInput.from_ints([1]).model_dump(mode="json")).to_ints(),
    )


@idiom
def numbers_of_a_settings_file(g):
    step = types.AdamParams(learning_rate="1e-4", weight_decay=torch.tensor(0.5), eps=np.float32(1))
    params = types.SamplingParams(max_tokens="3", temperature=np.float32(0), seed=np.int64(1), n=1)
    tokens = g.sampler.sample(g.prompt, 1, params).result().sequences[0].tokens
    none = types.AdamParams(learning_rate=torch.tensor(0.0))
    return (
        step.model_dump(exclude={"beta1", "beta2", "grad_clip_norm"}),
        params.model_dump(),
        len(tokens),
        type(g.trainer.optim_step(none).result()).__name__,
    )


@idiom
def values_copied_and_pickled(g):
    sampled = g.sampler.sample(g.prompt, 1, g.greedy).result()
    output = g.trainer.forward([g.datum], "cross_entropy").result()
    made = (g.datum, g.prompt, sampled, output, types.AdamParams(learning_rate=0.5))
    copies = [pickle.loads(pickle.dumps(made)), copy.deepcopy(made), [*map(copy.copy, made)]]
    return [
        (
            datum.loss_fn_inputs["weights"].tolist()[:2],
            prompt.to_ints() == g.prompt.to_ints(),
            response.sequences[0].tokens == sampled.sequences[0].tokens,
            len(result.loss_fn_outputs[0]["logprobs"].data),
            params.learning_rate,
        )
        for datum, prompt, response, result, params in copies
    ]


@idiom
def a_dict_of_inputs_changed_in_place(g):
    prompt = types.ModelInput.from_ints([1, 2])
    datum = types.Datum(model_input=prompt, loss_fn_inputs={"target_tokens": [2, 3]})
    datum.loss_fn_inputs["weights"] = types.TensorData(data=[0.0, 1.0], dtype="float32", shape=[2])
    weights = datum.loss_fn_inputs.pop("weights")
    prompt.chunks.append(types.EncodedTextChunk(tokens=[3]))
    return weights.data, sorted(datum.loss_fn_inputs), prompt.length, prompt.chunks[-1].tokens[-1]


@idiom
def values_as_fields_of_models(g):
    class Row(pydantic.BaseModel):
        prompt: types.ModelInput
        chunk: types.EncodedTextChunk
        params: types.SamplingParams
        reason: tinker.StopReason = "stop"

    chunk = types.EncodedTextChunk(tokens=[1])
    row = Row(prompt=g.prompt, chunk=chunk, params={"max_tokens": 2})
    return row.params.max_tokens, row.chunk.tokens, row.prompt.to_ints()


# ---- errors ----


@idiom
def the_tree_of_errors(g):
    names = sorted(name for name in tinker.__all__ if name.endswith("Error"))
    return {
        name: [base for base in names if issubclass(getattr(tinker, name), getattr(tinker, base))]
        for name in names
    }


@idiom
def wrong_arguments_are_refused_by_the_call_itself(g):
    calls = (
        (ValueError, lambda: g.service.create_sampling_client()),
        (ValueError, lambda: g.service.copy_weights("tinker://a/weights/b")),
        (ValueError, lambda: g.rest.get_training_run_by_tinker_path("no path")),
        (ValueError, lambda: g.rest.get_external_weights_urls("tinker://a/weights/b")),
        (ValueError, lambda: g.trainer.forward_backward([], "cross_entropy")),
        (TypeError, lambda: g.service.create_lora_training_client(MODEL, ranks=2)),
        (TypeError, lambda: g.rest.list_training_runs(limits=2)),
        (TypeError, lambda: g.trainer.optim_step()),
    )
    return [isinstance(raised(call, kind), kind) for kind, call in calls]


@idiom
def a_failed_request(g):
    error = tinker.RequestFailedError("why", "r-1", types.RequestErrorCategory.User)
    again = pickle.loads(pickle.dumps(error))
    return error.request_id, error.category == "user", type(again).__name__


@idiom
def signatures_that_are_read(g):
    return [
        list(inspect.signature(call).parameters)[:5]
        for call in (
            tinker.ServiceClient.create_lora_training_client,
            tinker.TrainingClient.save_weights_and_get_sampling_client,
            tinker.SamplingClient.sample,
            tinker.RestClient.list_training_runs,
        )
    ]


def main(url):
    given = Given(tinker, url)
    results = {}
    for function in idioms.IDIOMS:
        try:
            results[function.__name__] = function(given)
        except Exception as error:  # noqa: BLE001 - it is told
            lines = traceback.format_exception(error)
            results[function.__name__] = f"raised {''.join(lines[-3:])}"
    print(json.dumps({"origin": str(tinker.__spec__.origin), "results": results}))


if __name__ == "__main__":
    main(sys.argv[1])
    end(0)

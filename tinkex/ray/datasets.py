"""`sample_dataset`: a Ray dataset of prompts, with a sample for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinkex.ray.library import import_ray
from tinkex.sync.sampling import SamplingClient
from tinkex.types import SampledSequence, SamplingParams


def sample_dataset(
    ds: Any,
    sampler: SamplingClient,
    *,
    prompt_column: str = "prompt",
    params: SamplingParams | Mapping[str, Any] | None = None,
    workers: int = 4,
    batch_size: int = 64,
) -> Any:
    """Returns a Ray dataset with the columns of `ds` and a sample for each row: `tokens` (a list of
    int64), `logprobs` (a list of float32, null if the server sends none) and `stop_reason`.

    Like all Ray datasets it is computed as it is read. Each worker samples for one batch at a time;
    one that the server limits waits as any client does, and takes no further batch meanwhile, so
    that Ray Data reads no more prompts than can be sampled.

    Args:
        ds: a `ray.data.Dataset`.
        sampler: what to sample with. Each worker has a copy, with the API key of its environment.
        prompt_column: the column of the prompts: strings, or lists of token ids.
        params: the sampling parameters, for each prompt.
        workers: the number of worker processes.
        batch_size: the number of prompts that each worker has on the way at once.

    Raises:
        ImportError: ray is not installed. While the dataset is read, a prompt that fails
            ends it with the error of that prompt.

    Example:
        ds = ray.data.read_json("prompts.jsonl")
        sampled = tinkex.ray.sample_dataset(ds, sampler, params={"max_tokens": 64})
        sampled.write_parquet("samples")
    """
    data = import_ray("ray.data")
    return ds.map_batches(
        BatchSampler,
        fn_constructor_kwargs={
            "sampler": sampler,
            "prompt_column": prompt_column,
            "params": params,
        },
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=data.ActorPoolStrategy(size=workers),
        # workers wait for the server; with cores of their own they could leave none of the cluster
        # for the tasks that read the prompts and write the samples, and nothing would go on
        num_cpus=0,
    )


class BatchSampler:
    """A worker of `sample_dataset`, to which Ray Data gives batches."""

    def __init__(
        self,
        sampler: SamplingClient,
        prompt_column: str,
        params: SamplingParams | Mapping[str, Any] | None,
    ) -> None:
        self._sampler = sampler
        self._prompt_column = prompt_column
        self._params = params

    def __call__(self, batch: Any) -> Any:
        """Returns a pyarrow table with the columns of a sample for each row."""
        prompts: Sequence[Any] = batch.column(self._prompt_column).to_pylist()
        items = self._sampler.sample_many(
            prompts, sampling_params=self._params, max_in_flight=max(1, len(prompts))
        )
        return _with_samples(batch, [item.result().sequences[0] for item in items])


def _with_samples(batch: Any, samples: Sequence[SampledSequence]) -> Any:
    arrow = import_ray("pyarrow")
    columns = {
        "tokens": arrow.array(
            [list(sample.tokens) for sample in samples], arrow.list_(arrow.int64())
        ),
        "logprobs": arrow.array(
            [None if sample.logprobs is None else list(sample.logprobs) for sample in samples],
            arrow.list_(arrow.float32()),
        ),
        "stop_reason": arrow.array([str(sample.stop_reason) for sample in samples], arrow.string()),
    }
    for name, column in columns.items():
        batch = batch.append_column(name, column)
    return batch

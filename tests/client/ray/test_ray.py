"""Ray Data and rollouts over a server, from the processes of a Ray cluster."""

from __future__ import annotations

import functools
import inspect
import json
import os
import pickle
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tests.support.ray_variables  # noqa: F401  before ray is imported

pytest.importorskip("ray.data", reason="ray[data] is not installed: `make test-ray` has it")

import cloudpickle
import ray
from ray import data

import tinkex.local
import tinkex.ray
from tests.support.docstring_examples import indented_example
from tinkex import SamplingClient, ServiceClient, TinkexError
from tinkex.ray.datasets import BatchSampler

# Ray Data reads deprecated settings of its own
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

KEY = "tml-secret-of-the-ray-tests"
PARAMS = {"max_tokens": 4, "seed": 3}
BASE = "fake/base"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """The key is in the environment in which the cluster starts, and nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_API_KEY", KEY)
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def sampler() -> Iterator[SamplingClient]:
    with (
        tinkex.local.serve(BASE, engine="fake", api_key=KEY) as server,
        ServiceClient(server.base_url, KEY) as service,
    ):
        yield service.create_sampling_client(base_model=BASE)


def test_pickles_hold_no_key(sampler: SamplingClient) -> None:
    asked = {"sampler": sampler, "prompt_column": "prompt", "params": PARAMS}
    for dumps in (pickle.dumps, cloudpickle.dumps):
        assert KEY.encode() not in dumps((BatchSampler, asked))
        assert KEY.encode() not in dumps(partial(play, 1, sampler=sampler))


def test_a_dataset_gets_the_samples_of_its_prompts(sampler: SamplingClient) -> None:
    prompts = [[1 + number, 2] for number in range(50)]
    ds = data.from_items([{"id": n, "prompt": prompt} for n, prompt in enumerate(prompts)])
    sampled = tinkex.ray.sample_dataset(ds, sampler, params=PARAMS, workers=2, batch_size=8)
    rows = {row["id"]: row for row in sampled.take_all()}
    assert rows.keys() == set(range(50))
    for number, prompt in enumerate(prompts):
        wanted = sampler.sample(prompt, 1, PARAMS).result().sequences[0]
        assert list(rows[number]["prompt"]) == prompt
        assert list(rows[number]["tokens"]) == list(wanted.tokens)
        assert list(rows[number]["logprobs"]) == pytest.approx(list(wanted.logprobs))
        assert rows[number]["stop_reason"] == str(wanted.stop_reason)


def test_a_prompt_that_fails_ends_the_dataset_with_its_error(sampler: SamplingClient) -> None:
    ds = data.from_items([{"text": [1]}, {"text": [1 << 40]}])
    sampled = tinkex.ray.sample_dataset(ds, sampler, prompt_column="text", workers=1)
    with pytest.raises(Exception, match=str(1 << 40)):
        sampled.take_all()


@pytest.mark.filterwarnings("ignore:The minimum number of concurrent actors:UserWarning")
def test_the_examples_of_the_docstrings_run(sampler: SamplingClient, tmp_path: Path) -> None:
    prompts = [[1, 2], [3, 4], [5, 6]]
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
    )
    names = {
        "functools": functools,
        "prompts": prompts,
        "ray": ray,
        "reward_of": len,
        "sampler": sampler,
        "tinkex": tinkex,
    }
    for function in (tinkex.ray.sample_dataset, tinkex.ray.rollouts):
        code = indented_example(inspect.cleandoc(function.__doc__ or ""))
        assert code
        # the processes of the cluster have another working folder
        for name in ("prompts.jsonl", "samples"):
            code = code.replace(f'"{name}"', repr(str(tmp_path / name)))
        exec(code, names)
    rows = data.read_parquet(str(tmp_path / "samples")).take_all()
    assert sorted(list(row["prompt"]) for row in rows) == prompts
    assert all(len(row["tokens"]) for row in rows)
    assert names["reward"] == len(names["tokens"])


def play(number: int, sampler: SamplingClient) -> tuple[int, int, list[int]]:
    sequence = sampler.sample([number], 1, PARAMS).result().sequences[0]
    return number, os.getpid(), list(sequence.tokens)


def test_episodes_come_from_several_workers_and_no_more_exist_than_are_asked_for(
    sampler: SamplingClient,
) -> None:
    taken: list[int] = []

    def envs() -> Iterator[Any]:
        for number in range(1, 61):
            taken.append(number)
            yield partial(play, number)

    episodes = tinkex.ray.rollouts(sampler, envs(), workers=2, episodes_per_worker=3)
    first = next(episodes)
    time.sleep(0.5)  # for episodes that should not begin
    assert len(taken) == 7, "six at once, and the one after the first"
    found = [first, *episodes]
    assert sorted(number for number, _, _ in found) == list(range(1, 61))
    assert len({pid for _, pid, _ in found}) == 2
    wanted = {number: play(number, sampler)[2] for number in range(1, 61)}
    assert {number: tokens for number, _, tokens in found} == wanted


def test_an_episode_whose_worker_is_lost_is_played_again(
    sampler: SamplingClient, tmp_path: Path
) -> None:
    envs = [partial(play_or_die, number, tmp_path / "died") for number in range(1, 9)]
    episodes = tinkex.ray.rollouts(sampler, envs, workers=2, episodes_per_worker=2)
    assert sorted(number for number, _, _ in episodes) == list(range(1, 9))
    assert (tmp_path / "died").exists()


def play_or_die(number: int, died: Path, sampler: SamplingClient) -> tuple[int, int, list[int]]:
    if number == 3 and not died.exists():
        died.touch()
        os._exit(1)
    return play(number, sampler)


def test_an_environment_that_raises_ends_the_iteration(sampler: SamplingClient) -> None:
    with pytest.raises(TinkexError):
        list(tinkex.ray.rollouts(sampler, [partial(play, 1 << 40)], workers=1))

"""`rollouts`: the episodes of many environments, played by Ray actors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from typing import Any, TypeVar

from tinkex.ray.library import import_ray
from tinkex.sync.sampling import SamplingClient

Episode = TypeVar("Episode")


def rollouts(
    sampler: SamplingClient,
    envs: Iterable[Callable[[SamplingClient], Episode]],
    *,
    workers: int = 4,
    episodes_per_worker: int = 8,
) -> Iterator[Episode]:
    """Yields the episodes of environments as they finish.

    An environment is a picklable callable, which plays an episode with the sampler that it is given
    and returns what is to be known of it. No more than `workers * episodes_per_worker` episodes
    exist at once: environments are taken from `envs` as episodes are read, so `envs` may be
    endless. Close the iterator to end the workers before its end.

    An episode whose worker is lost is played again. An environment that raises ends the iteration
    with its error.

    Args:
        sampler: what to sample with. Each worker has a copy, with the API key of its environment.
        envs: the environments.
        workers: the number of worker processes.
        episodes_per_worker: the number of episodes that each plays at once, in threads.

    Raises:
        ImportError: ray is not installed.

    Example:
        def play(prompt, sampler):
            sequence = sampler.sample(prompt, 1, {"max_tokens": 64}).result().sequences[0]
            return prompt, sequence.tokens, reward_of(sequence.tokens)

        envs = (functools.partial(play, prompt) for prompt in prompts)
        for prompt, tokens, reward in tinkex.ray.rollouts(sampler, envs):
            ...
    """
    ray = import_ray()
    return _play_all(ray, sampler, iter(envs), workers, episodes_per_worker)


def _play_all(
    ray: Any,
    sampler: SamplingClient,
    envs: Iterator[Callable[[SamplingClient], Episode]],
    workers: int,
    episodes_per_worker: int,
) -> Iterator[Episode]:
    options = {
        "max_concurrency": episodes_per_worker,
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    players = [ray.remote(Player).options(**options).remote(sampler) for _ in range(workers)]
    playing: dict[Any, Any] = {}  # the player of each episode
    try:
        for player in islice(cycle(players), workers * episodes_per_worker):
            _begin(playing, player, envs)
        while playing:
            [finished], _ = ray.wait(list(playing), num_returns=1)
            player = playing.pop(finished)
            episode = ray.get(finished)
            del finished  # the object store may free it
            _begin(playing, player, envs)
            yield episode
    finally:
        for player in players:
            ray.kill(player)


def _begin(
    playing: dict[Any, Any], player: Any, envs: Iterator[Callable[[SamplingClient], Any]]
) -> None:
    """Has a player play the next environment, if there is one."""
    for env in islice(envs, 1):
        playing[player.play.remote(env)] = player


class Player:
    """A worker of `rollouts`."""

    def __init__(self, sampler: SamplingClient) -> None:
        self._sampler = sampler

    def play(self, env: Callable[[SamplingClient], Episode]) -> Episode:
        return env(self._sampler)

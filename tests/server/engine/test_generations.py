"""Weights that sampler ids stand for are dropped once, and not before their last sample."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tinkex_server.engine.generations import Generations
from tinkex_server.engine.interface import InvalidRequest


def put(generations: Generations[str], weights: str) -> None:
    generations.put("s", generations.next(), weights)


def test_replaced_weights_are_dropped_after_their_last_sample() -> None:
    dropped: list[str] = []
    generations = Generations[str](dropped.append)
    put(generations, "one")
    first, second = generations.take("s"), generations.take("s")
    put(generations, "two")
    assert generations.take("s") == "two"
    generations.give_back(first)
    assert dropped == []
    generations.give_back(second)
    assert dropped == ["one"]
    generations.give_back("two")
    assert dropped == ["one"], "the id still stands for them"
    generations.remove("s")
    generations.remove("s")
    assert dropped == ["one", "two"]
    with pytest.raises(InvalidRequest, match="unknown sampler 's'"):
        generations.take("s")


def test_a_later_generation_wins_though_an_earlier_one_is_ready_after_it() -> None:
    dropped: list[str] = []
    generations = Generations[str](dropped.append)
    earlier, later = generations.next(), generations.next()
    generations.put("s", later, "later")
    generations.put("s", earlier, "earlier")
    assert generations.take("s") == "later"
    assert dropped == ["earlier"]


def test_each_generation_is_dropped_once_and_out_of_use_under_many_threads() -> None:
    in_use = dict.fromkeys((str(number) for number in range(200)), 0)
    lock, dropped = threading.Lock(), list[str]()

    def drop(weights: str) -> None:
        with lock:
            assert in_use[weights] == 0
            dropped.append(weights)

    generations = Generations[str](drop)
    put(generations, "0")
    replaced = threading.Event()

    def sample() -> None:
        while not replaced.is_set():
            weights = generations.take("s")
            with lock:
                assert weights not in dropped
                in_use[weights] += 1
            with lock:
                in_use[weights] -= 1
            generations.give_back(weights)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(sample) for _ in range(4)]
        for weights in list(in_use)[1:]:
            put(generations, weights)
        replaced.set()
        for one in running:
            one.result()
    assert sorted(dropped, key=int) == list(in_use)[:-1]

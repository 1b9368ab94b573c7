"""Samples for many prompts through both facades: order, bounds, failures, and endings that leave
nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from typing import Any

import pytest

from tests.support.facades import FACADES
from tests.support.recording_engine import RecordingEngine
from tinkex import InvalidInputError, ModelInput, RequestFailedError, SamplingClient
from tinkex.local import Server
from tinkex.portal import portal
from tinkex.sampling.client import AsyncSamplingClient
from tinkex.sampling.many import SampleManyItem

# the coroutines of a run
_OURS = {"_Pipeline.feed", "_Pipeline.sample_one", "Sampler.sample", "_within"}


@pytest.fixture
def sampler(service: Any) -> Any:
    return service.create_sampling_client(base_model="fake/base")


def many(client: Any, prompts: Any, **settings: Any) -> Any:
    """Few at once, so that a test sees the bound."""
    return client.sample_many(prompts, 1, {"max_tokens": 1}, **{"max_in_flight": 8, **settings})


def take(
    sampler: Any,
    prompts: Any,
    *,
    each: Callable[[SampleManyItem], None] = lambda item: None,
    count: int | None = None,
    pause: float = 0.0,
    **settings: Any,
) -> list[SampleManyItem]:
    """The first `count` items, in the manner of the facade; `each` is called, and the loop paused,
    after each.
    """
    return (_take_blocking if isinstance(sampler, SamplingClient) else _take_asyncio)(
        sampler, prompts, each, count, pause, settings
    )


def _take_blocking(
    sampler: Any, prompts: Any, each: Any, count: int | None, pause: float, settings: Any
) -> list[SampleManyItem]:
    seen: list[SampleManyItem] = []
    with closing(many(sampler, prompts, **settings)) as items:
        for item in items:
            seen.append(item)
            each(item)
            time.sleep(pause)
            if len(seen) == count:
                break
    return seen


def _take_asyncio(
    sampler: Any, prompts: Any, each: Any, count: int | None, pause: float, settings: Any
) -> list[SampleManyItem]:
    async def take() -> list[SampleManyItem]:
        seen: list[SampleManyItem] = []
        async with aclosing(many(sampler.client, prompts, **settings)) as items:
            async for item in items:
                seen.append(item)
                each(item)
                await asyncio.sleep(pause)
                if len(seen) == count:
                    break
        return seen

    return portal.shared().run(take)


def tokens(items: list[SampleManyItem]) -> list[int]:
    return [item.result().sequences[0].tokens[0] for item in items]


def running() -> list[str]:
    """The coroutines of runs that have not ended on the portal's loop."""

    def names() -> list[str]:
        return [
            name
            for task in asyncio.all_tasks()
            if (name := getattr(task.get_coro(), "__qualname__", "")) in _OURS
        ]

    return portal.shared().call(names)


def reading() -> list[threading.Thread]:
    """The threads that still read prompts, after a moment to end."""
    readers = [thread for thread in threading.enumerate() if thread.name == "tinkex-prompts"]
    for reader in readers:
        reader.join(2)
    return [reader for reader in readers if reader.is_alive()]


class Counted:
    """Prompts that count how many of them were read, and by which thread."""

    def __init__(self, prompts: list[list[int]]) -> None:
        self.prompts = prompts
        self.read = 0
        self.threads: set[str] = set()

    def __iter__(self) -> Iterator[list[int]]:
        for prompt in self.prompts:
            self.read += 1
            self.threads.add(threading.current_thread().name)
            yield prompt

    async def stream(self) -> AsyncIterator[list[int]]:
        for prompt in self:
            await asyncio.sleep(0)
            yield prompt


@contextlib.contextmanager
def once_the_engine_waits(engine: RecordingEngine, look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` some time after the engine came to a prompt that waits for the gate, then opens
    the gate.
    """

    def watch() -> None:
        if engine.waiting.acquire(timeout=10):
            time.sleep(0.3)
            look()
        engine.gate.set()

    while engine.waiting.acquire(blocking=False):  # of other tests
        pass
    engine.gate.clear()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        watcher.join()


@pytest.mark.slow
def test_a_thousand_prompts_come_in_their_order(sampler: Any) -> None:
    prompts = [[1 + number % 90] for number in range(1000)]  # about four times those in flight
    items = take(sampler, iter(prompts), max_in_flight=256)
    assert [item.index for item in items] == list(range(1000))
    assert [[token] for token in tokens(items)] == [item.prompt for item in items] == prompts
    assert not running()
    assert not reading()


@pytest.mark.parametrize("form", ["list", "iterator", "asynchronous"])
def test_prompts_may_be_any_iterable(sampler: Any, form: str) -> None:
    counted = Counted([[1], [2], [3]])
    prompts = {"list": counted.prompts, "iterator": counted, "asynchronous": counted.stream()}[form]
    assert tokens(take(sampler, prompts)) == [1, 2, 3]
    if form == "iterator":
        assert counted.threads == {"tinkex-prompts"}
    assert take(sampler, type(counted.prompts)()) == []


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_prompts_are_read_only_as_they_can_be_in_flight(
    sampler: Any, server_engine: RecordingEngine, ordered: bool, asynchronous: bool
) -> None:
    # samples are drawn side by side
    counted = Counted([*[[96]] * 8, *([number] for number in range(1, 43))])
    read: list[int] = []
    with once_the_engine_waits(server_engine, lambda: read.append(counted.read)):
        items = take(sampler, counted.stream() if asynchronous else counted, ordered=ordered)
    assert read == [8]
    assert sorted(item.index for item in items) == list(range(50))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_slow_caller_is_waited_for(sampler: Any, ordered: bool) -> None:
    counted = Counted([[number] for number in range(1, 41)])
    ahead: list[int] = []
    taken = iter(range(1, 41))
    take(
        sampler,
        counted,
        pause=0.02,
        ordered=ordered,
        each=lambda item: ahead.append(counted.read - next(taken)),
    )
    assert len(ahead) == 40
    assert 4 <= max(ahead) <= 8


def test_as_they_finish_or_in_order(sampler: Any, server_engine: RecordingEngine) -> None:
    prompts = [[96], [5], [], [6]]
    first: list[int] = []

    def each(item: SampleManyItem) -> None:
        first.append(item.index)
        server_engine.gate.set()

    server_engine.gate.clear()
    finished = take(sampler, prompts, ordered=False, each=each)
    assert first[0] == 2  # refused at once, while the one before waits
    assert sorted(item.index for item in finished) == [0, 1, 2, 3]
    with once_the_engine_waits(server_engine, lambda: None):
        assert [item.index for item in take(sampler, prompts)] == [0, 1, 2, 3]


@pytest.mark.parametrize("ordered", [True, False])
def test_failures_are_returned_beside_results(sampler: Any, ordered: bool) -> None:
    prompts = [[5], [99], [], "", [1.5], None, [6]]
    items = sorted(take(sampler, prompts, ordered=ordered), key=lambda item: item.index)
    kinds = [type(None), RequestFailedError, *[InvalidInputError] * 4, type(None)]
    assert all(isinstance(item.error, kind) for item, kind in zip(items, kinds, strict=True))
    assert [item.response is None for item in items] == [False, *[True] * 5, False]
    assert tokens([items[0], items[6]]) == [5, 6]
    with pytest.raises(RequestFailedError, match="99 is not a token"):
        items[1].result()


@pytest.mark.parametrize("ordered", [True, False])
def test_leaving_early_cancels_what_is_under_way(
    sampler: Any, server_engine: RecordingEngine, ordered: bool
) -> None:
    counted = Counted([[5], *[[96]] * 2000])
    server_engine.gate.clear()
    [first] = take(sampler, counted, count=1, ordered=ordered, max_in_flight=16)
    assert not running()
    assert not reading()
    server_engine.gate.set()
    assert first.index == 0
    assert counted.read <= 17
    assert sampler.sample([7], 1, {"max_tokens": 1}).result().sequences[0].tokens[0] == 7


def test_an_error_of_the_prompts_comes_after_the_items_before_it(sampler: Any) -> None:
    def prompts() -> Iterator[list[int]]:
        yield [5]
        yield [6]
        raise OSError("the file is gone")

    seen: list[SampleManyItem] = []
    with pytest.raises(OSError, match="the file is gone"):
        take(sampler, prompts(), each=seen.append)
    assert tokens(seen) == [5, 6]
    assert not running()
    assert not reading()


def test_one_prompt_and_no_room_are_refused_at_the_call(sampler: Any) -> None:
    for prompts in ("text", ModelInput.from_ints([1])):
        with pytest.raises(InvalidInputError, match="prompts is one"):
            take(sampler, prompts)
    with pytest.raises(InvalidInputError, match="max_in_flight"):
        take(sampler, [[1]], max_in_flight=0)
    with pytest.raises(InvalidInputError, match="temprature"):
        sampler.sample_many([[1]], 1, {"temprature": 1.0})
    with pytest.raises(TypeError, match="not iterable"):
        take(sampler, 5)


def test_progress_is_drawn_on_stderr(sampler: Any, capsys: pytest.CaptureFixture[str]) -> None:
    take(sampler, [[5], [99], [6]], progress=True)
    take(sampler, iter([[5]]), progress=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err
    assert "1 failed" in err
    assert "1/1" not in err


@pytest.fixture
def blocking(server: Server, server_engine: RecordingEngine) -> Iterator[SamplingClient]:
    server_engine.gate.set()
    with FACADES["blocking"](base_url=server.base_url, api_key="tml-test") as service:
        yield service.create_sampling_client(base_model="fake/base")


def test_prompts_may_make_blocking_calls(blocking: SamplingClient) -> None:
    prompts = (
        blocking.sample([token], 1, {"max_tokens": 1}).result().sequences[0].tokens
        for token in (3, 4)
    )
    assert tokens(take(blocking, prompts)) == [1, 1]


def test_a_dropped_iterator_is_closed(
    blocking: SamplingClient, server_engine: RecordingEngine
) -> None:
    server_engine.gate.clear()
    for item in many(blocking, iter([[5], *[[96]] * 20])):
        assert item.index == 0
        assert running()
        break
    assert not running()
    server_engine.gate.set()


def test_an_unused_iterator_needs_no_close(blocking: SamplingClient) -> None:
    counted = Counted([[5]])
    items = many(blocking, counted)
    del items
    assert counted.read == 0
    assert not running()


def test_an_exit_of_the_prompts_leaves_the_portal_running(blocking: SamplingClient) -> None:
    def prompts() -> Iterator[list[int]]:
        yield [5]
        sys.exit(3)

    with pytest.raises(SystemExit):
        take(blocking, prompts())
    assert tokens(take(blocking, [[6]])) == [6]


async def in_asyncio(server: Server, work: Callable[[AsyncSamplingClient], Any]) -> None:
    async with FACADES["asyncio"](base_url=server.base_url, api_key="tml-test").client as service:
        await work(await service.create_sampling_client(base_model="fake/base"))


def tasks() -> set[asyncio.Task[Any]]:
    """All but those that tell the server, for which nobody waits."""
    return {
        task
        for task in asyncio.all_tasks()
        if not task.get_name().startswith("tinkex cancellation")
    }


def test_cancelling_the_waiting_task_cancels_the_samples(
    server: Server, server_engine: RecordingEngine
) -> None:
    async def work(client: AsyncSamplingClient) -> None:
        before = tasks()
        waiting = asyncio.ensure_future(anext(many(client, iter([[96]] * 20))))
        await asyncio.sleep(0.5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert tasks() == before

    server_engine.gate.clear()
    asyncio.run(in_asyncio(server, work))
    server_engine.gate.set()


def test_a_cancelled_source_of_prompts_does_not_hang(
    server: Server, server_engine: RecordingEngine
) -> None:
    async def prompts() -> AsyncIterator[list[int]]:
        yield [5]
        raise asyncio.CancelledError

    async def work(client: AsyncSamplingClient) -> None:
        items = many(client, prompts())
        assert tokens([await anext(items)]) == [5]
        with pytest.raises(asyncio.CancelledError):
            await anext(items)

    server_engine.gate.set()
    asyncio.run(in_asyncio(server, work))


def test_ctrl_c_ends_a_wait_at_once(server: Server, server_engine: RecordingEngine) -> None:
    server_engine.gate.clear()
    script = """
        import sys, tinkex
        with tinkex.ServiceClient(base_url=sys.argv[1], api_key="x") as service:
            sampler = service.create_sampling_client(base_model="fake/base")
            for item in sampler.sample_many(iter([[5], [96], [96]]), 1, {"max_tokens": 1}):
                print("waiting", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), server.base_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        server_engine.gate.set()
    assert time.monotonic() - began < 5
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "ignored" not in errors
    assert "never retrieved" not in errors


def test_sample_many_has_the_options_of_sample(sampler: Any) -> None:
    asked = {
        "prompt_logprobs": True,
        "prompt_logprobs_last_n": 1,
        "topk_sample_logprobs": 1,
        "prompt_alt_tokens_k": 2,
    }
    for item in take(sampler, [[5, 6, 7], [8, 9]], **asked):
        response = item.result()
        assert response.prompt_logprobs == [*[None] * (len(item.prompt) - 1), -1.0]
        assert response.sequences[0].topk_logprobs == [[(1, -0.5)]] * 2
        assert response.prompt_alt_tokens is not None

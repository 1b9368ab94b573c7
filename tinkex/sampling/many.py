"""`sample_many`: samples for any number of prompts, and holds a bounded number of them in memory."""

from __future__ import annotations

import asyncio
import contextvars
import operator
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from queue import SimpleQueue
from typing import Any, TypeAlias, cast

from attrs import define, field, frozen

from tinkex.errors import InvalidInputError
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.types import ArrayLike, ModelInput, SampleResponse

Prompt: TypeAlias = ModelInput | ArrayLike | str
Prompts: TypeAlias = Iterable[Prompt] | AsyncIterable[Prompt]


@frozen(eq=False)
class SampleManyItem:
    """The outcome for one prompt: either `response` or `error` is set.

    Example:
        async for item in sampler.sample_many([[1, 2], [3, 4]], 1, {"max_tokens": 8}):
            if item.error is not None:
                print(f"prompt {item.index} failed: {item.error}")
            else:
                print(item.response.sequences[0].tokens)
    """

    index: int
    """The prompt's index among all prompts, from 0."""
    prompt: Prompt
    """The prompt, as the caller gave it."""
    response: SampleResponse | None = None
    """The response; None when the prompt failed."""
    error: Exception | None = None
    """The error with which the prompt failed; None when it did not."""

    def result(self) -> SampleResponse:
        """Returns the response, or raises the error."""
        if self.error is not None:
            raise self.error
        return cast(SampleResponse, self.response)


def sample_many(
    sample: Callable[[Prompt], AsyncAPIFuture[SampleResponse]],
    prompts: Prompts,
    *,
    max_in_flight: int,
    ordered: bool,
    progress: bool,
) -> AsyncGenerator[SampleManyItem, None]:
    """Yields the outcome for each prompt, in the order of the prompts or as they finish.

    A prompt is in flight from when it is read until its item is taken. So no more than
    `max_in_flight` are held, whether the server is slow or the caller. Nothing is read before the
    first item is asked for. Lists and tuples are read on the event loop, other iterables in a
    thread, since they may block.

    When the generator is closed, or the task that waits for an item is cancelled, all prompts in
    flight are cancelled.

    Args:
        sample: starts sampling for one prompt. An exception that it raises, at once or later,
            becomes the item's error.
        prompts: the prompts, read lazily. An exception that reading them raises is raised after
            the items of all earlier prompts.
        max_in_flight: the largest number of prompts in flight; 1 or more.
        ordered: whether to yield the items in the order of the prompts. A slow prompt then holds up
            the `max_in_flight` - 1 behind it.
        progress: whether to draw a progress bar on standard error.

    Raises:
        InvalidInputError: at the call: `max_in_flight` below 1, or `prompts` is one prompt.
    """
    if max_in_flight < 1:
        raise InvalidInputError(f"max_in_flight must be 1 or more, not {max_in_flight}")
    if isinstance(prompts, (str, bytes, ModelInput)):
        raise InvalidInputError(
            f"prompts is one {type(prompts).__name__}",
            advice="Give a list of prompts, or an iterator over them.",
        )
    return _items(_Pipeline(sample, ordered, asyncio.Semaphore(max_in_flight)), prompts, progress)


async def _items(
    pipeline: _Pipeline, prompts: Prompts, progress: bool
) -> AsyncGenerator[SampleManyItem, None]:
    feeder = asyncio.create_task(pipeline.feed(prompts), name="tinkex sample_many")
    feeder.add_done_callback(lambda _: pipeline.queue.put_nowait(None))
    try:
        with _bar(prompts, progress) as show:
            while (task := await pipeline.queue.get()) is not None:
                item = await task
                pipeline.slots.release()
                show(item)
                yield item
        await feeder
        if pipeline.error is not None:
            raise pipeline.error
    finally:
        await pipeline.stop(feeder)


@define(eq=False)
class _Pipeline:
    """The prompts in flight. A feeder task starts them, and puts them into the queue in the order
    in which they are to be yielded, with None after the last.
    """

    sample: Callable[[Prompt], AsyncAPIFuture[SampleResponse]]
    ordered: bool
    slots: asyncio.Semaphore
    queue: asyncio.Queue[asyncio.Task[SampleManyItem] | None] = field(
        factory=lambda: asyncio.Queue()
    )
    running: set[asyncio.Task[SampleManyItem]] = field(
        factory=lambda: set[asyncio.Task[SampleManyItem]]()
    )
    error: BaseException | None = None
    """The exception that reading the prompts raised."""

    async def feed(self, prompts: Prompts) -> None:
        """Reads and starts each prompt as soon as there is a slot for it."""
        try:
            async with aclosing(_read(prompts)) as reader:
                await self.slots.acquire()
                index = 0
                async for prompt in reader:
                    self.start(index, prompt)
                    index += 1
                    await self.slots.acquire()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - raised to the caller after the earlier items
            self.error = error
        if self.running:
            await asyncio.wait(self.running)

    def start(self, index: int, prompt: Prompt) -> None:
        task = asyncio.create_task(self.sample_one(index, prompt))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        if self.ordered:
            self.queue.put_nowait(task)
        else:
            task.add_done_callback(self.queue.put_nowait)

    async def sample_one(self, index: int, prompt: Prompt) -> SampleManyItem:
        try:
            return SampleManyItem(index, prompt, response=await _result_of(self.sample(prompt)))
        except Exception as error:  # noqa: BLE001 - returned as the item's error
            return SampleManyItem(index, prompt, error=error)

    async def stop(self, feeder: asyncio.Task[None]) -> None:
        """Cancels all tasks, and waits until they have ended."""
        tasks: list[asyncio.Task[Any]] = [feeder, *self.running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _result_of(future: AsyncAPIFuture[SampleResponse]) -> SampleResponse:
    """Returns the future's result. Cancelling this cancels the future too, which cancelling a plain
    await of it does not.
    """
    try:
        return await future
    except asyncio.CancelledError:
        future.cancel()
        await asyncio.wait([future.task])
        raise


def _read(prompts: Prompts) -> AsyncGenerator[Prompt, None]:
    if isinstance(prompts, AsyncIterable):
        return _from_async(prompts)
    return _in_memory(prompts) if isinstance(prompts, (list, tuple)) else _in_thread(prompts)


async def _from_async(prompts: AsyncIterable[Prompt]) -> AsyncGenerator[Prompt, None]:
    async for prompt in prompts:
        yield prompt


async def _in_memory(prompts: Iterable[Prompt]) -> AsyncGenerator[Prompt, None]:
    for prompt in prompts:
        yield prompt
        await asyncio.sleep(0)  # lets the first requests leave while later ones are being encoded


_END = object()


async def _in_thread(prompts: Iterable[Prompt]) -> AsyncGenerator[Prompt, None]:
    """Reads each prompt in a daemon thread when it is asked for.

    All are read in one thread, since a generator may hold an object that belongs to a thread, such
    as a database cursor. The event loop's thread pool is not used, since a generator may block for
    long. The thread is a daemon, so that a generator that never returns does not keep the process
    from exiting.
    """
    requests: SimpleQueue[Future[Any] | None] = SimpleQueue()
    context = contextvars.copy_context()
    threading.Thread(
        target=context.run,
        args=(_read_on_request, prompts, requests),
        name="tinkex-prompts",
        daemon=True,
    ).start()
    try:
        while True:
            request: Future[Any] = Future()
            requests.put(request)
            prompt = await asyncio.wrap_future(request)
            if prompt is _END:
                return
            yield prompt
    finally:
        requests.put(None)


def _read_on_request(prompts: Iterable[Prompt], requests: SimpleQueue[Future[Any] | None]) -> None:
    iterator: Iterator[Prompt] | None = None
    while (request := requests.get()) is not None:
        if not request.set_running_or_notify_cancel():
            continue
        try:
            iterator = iterator or iter(prompts)
            request.set_result(next(iterator, _END))
        except BaseException as error:  # noqa: BLE001 - raised where the prompt is waited for
            request.set_exception(error)


def _bar(
    prompts: Prompts, wanted: bool
) -> AbstractContextManager[Callable[[SampleManyItem], None]]:
    """Returns a context manager of the function that counts an item on the progress bar."""
    return (
        _drawn_bar(operator.length_hint(prompts) or None) if wanted else nullcontext(_show_no_bar)
    )


def _show_no_bar(item: SampleManyItem) -> None:
    """Does nothing: no progress bar was asked for."""


@contextmanager
def _drawn_bar(total: int | None) -> Generator[Callable[[SampleManyItem], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    failed = 0
    failures = TextColumn("{task.fields[failed]} failed")
    columns = (
        TextColumn("sampling"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        failures,
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("sampling", total=total, failed=failed)

        def show(item: SampleManyItem) -> None:
            nonlocal failed
            failed += item.error is not None
            bar.update(line, advance=1, failed=failed)

        yield show

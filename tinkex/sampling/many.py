"""`sample_many`: samples for any number of prompts, with a bounded number of them in memory."""

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
    """What became of one prompt: either `response` or `error` is set."""

    index: int
    """The prompt's place among all, from 0."""
    prompt: Prompt
    """As it was given."""
    response: SampleResponse | None = None
    error: Exception | None = None

    def result(self) -> SampleResponse:
        """The response, or raises the error."""
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
    """What became of each prompt, in their order or as they finish.

    A prompt is in flight from when it is read until its item is taken, so no more than
    `max_in_flight` are held whether the server is slow or the caller. Nothing is read before the
    first item is asked for. Lists and tuples are read on the event loop, other iterables in one
    thread of their own since they may block.

    When the generator is closed, or the task that waits for an item is cancelled, all that is under
    way is cancelled.

    Args:
        sample: begins to sample for one prompt; what it raises, at once or later, becomes the
            item's error.
        prompts: read lazily. An error of theirs is raised after the items of all prompts before it.
        max_in_flight: at most so many prompts at once; 1 or more.
        ordered: whether to give the items in the order of the prompts. A slow one then holds up the
            `max_in_flight` - 1 behind it.
        progress: whether to draw a progress bar on stderr.

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
    return _items(_Run(sample, ordered, asyncio.Semaphore(max_in_flight)), prompts, progress)


async def _items(
    run: _Run, prompts: Prompts, progress: bool
) -> AsyncGenerator[SampleManyItem, None]:
    feeder = asyncio.create_task(run.feed(prompts), name="tinkex sample_many")
    feeder.add_done_callback(lambda _: run.queue.put_nowait(None))
    try:
        with _bar(prompts, progress) as show:
            while (task := await run.queue.get()) is not None:
                item = await task
                run.slots.release()
                show(item)
                yield item
        await feeder
        if run.error is not None:
            raise run.error
    finally:
        await run.stop(feeder)


@define(eq=False)
class _Run:
    """The prompts in flight. A feeder starts them; the queue says which to take next, and None
    after the last.
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
    """What `prompts` raised."""

    async def feed(self, prompts: Prompts) -> None:
        """Starts each prompt as soon as there is a slot for it; a prompt is read only when there
        is.
        """
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
        except BaseException as error:  # noqa: BLE001 - it is the caller's, who gets it after the items before it
            self.error = error
        if self.running:
            await asyncio.wait(self.running)

    def start(self, index: int, prompt: Prompt) -> None:
        task = asyncio.create_task(self.one(index, prompt))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        if self.ordered:
            self.queue.put_nowait(task)
        else:
            task.add_done_callback(self.queue.put_nowait)

    async def one(self, index: int, prompt: Prompt) -> SampleManyItem:
        try:
            return SampleManyItem(index, prompt, response=await _awaited(self.sample(prompt)))
        except Exception as error:  # noqa: BLE001 - it stands beside the results
            return SampleManyItem(index, prompt, error=error)

    async def stop(self, feeder: asyncio.Task[None]) -> None:
        """Cancels what runs and waits until it has ended."""
        tasks: list[asyncio.Task[Any]] = [feeder, *self.running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _awaited(future: AsyncAPIFuture[SampleResponse]) -> SampleResponse:
    """The future's result; who cancels this cancels the future, too, which awaiting it does not."""
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
    """Reads in one daemon thread, a prompt when it is asked for.

    One thread, since a generator may hold what belongs to a thread (a database cursor); of its own,
    since a generator that waits for another blocking call must not use up the event loop's pool;
    daemon, since one that never returns must not keep the process from ending.
    """
    orders: SimpleQueue[Future[Any] | None] = SimpleQueue()
    context = contextvars.copy_context()
    threading.Thread(
        target=context.run, args=(_serve, prompts, orders), name="tinkex-prompts", daemon=True
    ).start()
    try:
        while True:
            order: Future[Any] = Future()
            orders.put(order)
            prompt = await asyncio.wrap_future(order)
            if prompt is _END:
                return
            yield prompt
    finally:
        orders.put(None)


def _serve(prompts: Iterable[Prompt], orders: SimpleQueue[Future[Any] | None]) -> None:
    iterator: Iterator[Prompt] | None = None
    while (order := orders.get()) is not None:
        if not order.set_running_or_notify_cancel():
            continue
        try:
            iterator = iterator or iter(prompts)
            order.set_result(next(iterator, _END))
        except BaseException as error:  # noqa: BLE001 - it is raised where the prompt is waited for
            order.set_exception(error)


def _bar(
    prompts: Prompts, wanted: bool
) -> AbstractContextManager[Callable[[SampleManyItem], None]]:
    """Gives what shows an item that was taken."""
    return (
        _drawn_bar(operator.length_hint(prompts) or None) if wanted else nullcontext(_show_nothing)
    )


def _show_nothing(item: SampleManyItem) -> None:
    """For who wants no bar."""


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
    words = TextColumn("{task.fields[failed]} failed")
    columns = (
        TextColumn("sampling"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        words,
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("sampling", total=total, failed=failed)

        def show(item: SampleManyItem) -> None:
            nonlocal failed
            failed += item.error is not None
            bar.update(line, advance=1, failed=failed)

        yield show

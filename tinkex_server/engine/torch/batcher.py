"""`Batcher`: takes requests for samples from any thread, and samples them together on a thread of
its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Hashable, Iterable, Sequence
from contextlib import contextmanager

from attrs import field, frozen

from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.decoding import Batch
from tinkex_server.engine.torch.prefill import Reading
from tinkex_server.engine.torch.request import Request, Sample

_CACHE_BYTES = 2 << 30
_LOGITS_AT_ONCE = 1 << 28
# so that samples under way are not kept waiting by an endless stream of new ones
_PASSES_BEFORE_A_STEP = 8


@frozen
class Limits:
    """How much is under way at once. A request that is larger by itself runs alone."""

    samples: int = 256
    cached_tokens: int = 1 << 18  # of all samples, each counted as long as the longest may become
    # of prompts in one pass, each counted as long as the longest; a longer one is read in several
    tokens_read: int = 2048
    tokens_scored: int = 2048  # the same where logits of all positions are kept

    @classmethod
    def of(cls, base: LoadedBaseModel) -> Limits:
        """What bounds memory for this model."""
        scored = _LOGITS_AT_ONCE // base.description.vocab_size
        return cls(
            cached_tokens=_CACHE_BYTES // base.bytes_a_token,
            tokens_scored=min(cls().tokens_read, scored),
        )

    def tokens_of(self, *, scored: bool) -> int:
        """For one pass."""
        return self.tokens_scored if scored else self.tokens_read


@frozen
class Size:
    """What requests take up."""

    samples: int
    longest: int  # tokens that one of the samples may come to, its prompt included
    prompt: int = 0
    scored: bool = False
    reads: Hashable = field(factory=object)  # equal for prompts that are read once for all


def admissible(waiting: Iterable[Size], running: Size, limits: Limits) -> int:
    """How many of those that wait, from the first, are to be read now, in one pass; or one prompt
    alone, in as many as it takes.

    None overtakes another, so that a large one has its turn, too.
    """
    samples, longest, prompt, scored, count = running.samples, running.longest, 0, False, 0
    read: set[Hashable] = set()
    for size in waiting:
        samples, longest, prompt = (
            samples + size.samples,
            max(longest, size.longest),
            max(prompt, size.prompt),
        )
        scored = scored or size.scored
        read.add(size.reads)
        too_much = samples > limits.samples or samples * longest > limits.cached_tokens
        too_long = len(read) * prompt > limits.tokens_of(scored=scored)
        if (too_much and samples > size.samples) or (too_long and len(read) > 1):
            break
        count += 1
    return count


class Batcher:
    """Requests for one base model join those under way at any step, and leave when they are
    complete.
    """

    def __init__(self, base: LoadedBaseModel) -> None:
        self._base = base
        self._limits = Limits.of(base)
        self._waiting: deque[Request] = deque()
        self._news = threading.Condition()
        self._closed = False
        # those that take several passes, in the order of their beginning
        self._long: list[Reading] = []
        # only while there are samples in it, so that its memory is freed
        self._batch: Batch | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"tinkex-sampling {base.description.name}", daemon=True
        )
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Raises `RuntimeError` once it is closed."""
        with self._news:
            if self._closed:
                raise RuntimeError("the engine was closed, and samples no more")
            self._waiting.append(request)
            self._news.notify()

    def close(self) -> None:
        """Gives up all requests, once the step under way is done."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait():
            self._drop_ended()
            # those who arrive while a pass runs are read before the next step, so that a burst of
            # requests goes on in step
            for _ in range(_PASSES_BEFORE_A_STEP):
                if not (requests := self._take()):
                    break
                self._begin(requests)
            if self._long:
                self._read(self._long[0])
            self._step()
        for request in (*self._waiting, *(sample.request for sample in self._under_way)):
            request.future.cancel()

    def _wait(self) -> bool:
        """Returns when there is something to do; false once closed."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._waiting or self._long or self._batch)
            return not self._closed

    @property
    def _under_way(self) -> Sequence[Sample]:
        """The samples that grow, and those whose prompt is being read."""
        read = [
            sample
            for reading in self._long
            for request in reading.requests
            for sample in request.samples
        ]
        return [*self._batch.samples, *read] if self._batch else read

    def _take(self) -> list[Request]:
        """The requests whose turn has come."""
        if not self._waiting:
            return []
        under_way = self._under_way
        longest = max((_size(sample.request).longest for sample in under_way), default=0)
        with self._news:
            count = admissible(
                map(_size, self._waiting), Size(len(under_way), longest), self._limits
            )
            taken = [self._waiting.popleft() for _ in range(count)]
        return [request for request in taken if not request.future.cancelled()]

    def _begin(self, requests: Sequence[Request]) -> None:
        scored = any(request.asks_about_prompt for request in requests)
        with _failing(requests):
            reading = Reading(self._base, requests, self._limits.tokens_of(scored=scored))
            if reading.takes_several_passes:
                self._long.append(reading)
            else:
                self._read(reading)

    def _read(self, reading: Reading) -> None:
        """One pass. Samples under way get a token before the next, so that a long prompt holds up
        nobody.
        """
        goes_on = False
        with _failing(reading.requests):
            self._batch = self._batch or Batch(self._base)
            goes_on = not reading.advance()
            if not goes_on:
                self._batch.begin(reading)
        if not goes_on:
            self._long = [other for other in self._long if other is not reading]

    def _drop_ended(self) -> None:
        self._long = [
            reading
            for reading in self._long
            if not all(request.future.done() for request in reading.requests)
        ]
        if self._batch:
            self._batch.drop_ended()
            self._batch = self._batch if self._batch.samples else None

    def _step(self) -> None:
        batch = self._batch
        if batch is None or not batch.samples:
            return
        try:
            batch.step()
        except Exception as error:  # noqa: BLE001  handed on to those who asked
            for sample in batch.samples:
                sample.request.answer(error)
            self._batch = None


@contextmanager
def _failing(requests: Iterable[Request]) -> Generator[None, None, None]:
    """What goes wrong in the block is handed on to those who asked; the samples under way go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  see above
        for request in requests:
            request.answer(error)


def _size(request: Request) -> Size:
    prompt = len(request.spec.prompt)
    return Size(
        request.spec.num_samples,
        prompt + request.room,
        prompt,
        request.asks_about_prompt,
        request.reads,
    )

"""`Batcher`: takes requests for samples from any thread, and samples them together on a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from attrs import field, frozen

from tinkex.local.engine.adapters import Base
from tinkex.local.engine.generation import Batch
from tinkex.local.engine.reading import Reading
from tinkex.local.engine.request import Request, Sample

_CACHE_BYTES = 2 << 30
_LOGITS_AT_ONCE = 1 << 28
_PASSES_BEFORE_A_STEP = 8  # so that samples under way are not kept waiting by an endless stream of new ones


@frozen
class Limits:
    """How much is under way at once. A request that is larger by itself runs alone."""

    samples: int = 256
    cached_tokens: int = 1 << 18  # of all samples, each counted as long as the longest may become
    tokens_read: int = 2048  # of prompts in one pass, each counted as long as the longest; a longer one is read in several
    tokens_scored: int = 2048  # the same where logits of all positions are kept

    @classmethod
    def of(cls, base: Base) -> Limits:
        """What bounds memory for this model."""
        scored = _LOGITS_AT_ONCE // base.description.vocab_size
        return cls(cached_tokens=_CACHE_BYTES // _bytes_a_token(base), tokens_scored=min(cls().tokens_read, scored))

    def tokens_of(self, *, scored: bool) -> int:
        """For one pass."""
        return self.tokens_scored if scored else self.tokens_read


def _bytes_a_token(base: Base) -> int:
    """Of keys and values, in all layers."""
    config: Any = base.model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * base.model.dtype.itemsize


@frozen
class Size:
    """What requests take up."""

    samples: int
    longest: int  # tokens that one of the samples may come to, its prompt included
    prompt: int = 0
    scored: bool = False
    reads: Hashable = field(factory=object)  # equal for prompts that are read once for all


def admissible(waiting: Iterable[Size], running: Size, limits: Limits) -> int:
    """How many of those that wait, from the first, are to be read now, in one pass; or one prompt alone, in as many as it takes.

    None overtakes another, so that a large one has its turn, too.
    """
    samples, longest, prompt, scored, count = running.samples, running.longest, 0, False, 0
    read: set[Hashable] = set()
    for size in waiting:
        samples, longest, prompt = samples + size.samples, max(longest, size.longest), max(prompt, size.prompt)
        scored = scored or size.scored
        read.add(size.reads)
        too_much = samples > limits.samples or samples * longest > limits.cached_tokens
        too_long = len(read) * prompt > limits.tokens_of(scored=scored)
        if (too_much and samples > size.samples) or (too_long and len(read) > 1):
            break
        count += 1
    return count


class Batcher:
    """Requests for one base model join those under way at any step, and leave when they are complete."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._limits = Limits.of(base)
        self._waiting: deque[Request] = deque()
        self._news = threading.Condition()
        self._closed = False
        self._reading: Reading | None = None  # between two of its passes
        self._batch: Batch | None = None  # only while there are samples in it, so that its memory is freed
        self._thread = threading.Thread(target=self._run, name=f"tinkex-sampling {base.description.name}", daemon=True)
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
            # those who arrive while a pass runs are read before the next step, so that a burst of requests goes on in step
            for _ in range(_PASSES_BEFORE_A_STEP):
                if not self._read():
                    break
            self._step()
        for request in (*self._waiting, *self._being_read, *(sample.request for sample in self._samples)):
            request.future.cancel()

    def _wait(self) -> bool:
        """Returns when there is something to do; false once closed."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._waiting or self._reading or self._batch)
            return not self._closed

    @property
    def _samples(self) -> Sequence[Sample]:
        return self._batch.samples if self._batch else ()

    @property
    def _being_read(self) -> Sequence[Request]:
        return self._reading.requests if self._reading else ()

    def _take(self) -> list[Request]:
        """The requests whose turn has come."""
        if not self._waiting:
            return []
        longest = max((_size(sample.request).longest for sample in self._samples), default=0)
        with self._news:
            count = admissible(map(_size, self._waiting), Size(len(self._samples), longest), self._limits)
            taken = [self._waiting.popleft() for _ in range(count)]
        return [request for request in taken if not request.future.cancelled()]

    def _read(self) -> bool:
        """One pass over prompts, if there are any; false when a step is to come before the next: a long prompt holds up nobody."""
        requests = self._being_read or self._take()
        if not requests:
            return False
        try:
            batch = self._batch = self._batch or Batch(self._base)
            reading, self._reading = self._reading or self._reading_of(requests), None
            if not reading.advance():
                self._reading = reading
                return False
            batch.begin(reading)
        except Exception as error:  # noqa: BLE001  handed on to those who asked; the samples under way go on
            for request in requests:
                request.answer(error)
        return True

    def _reading_of(self, requests: Sequence[Request]) -> Reading:
        scored = any(request.asks_about_prompt for request in requests)
        return Reading(self._base, requests, self._limits.tokens_of(scored=scored))

    def _drop_ended(self) -> None:
        if all(request.future.done() for request in self._being_read):
            self._reading = None
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


def _size(request: Request) -> Size:
    prompt = len(request.spec.prompt)
    return Size(request.spec.num_samples, prompt + request.room, prompt, request.asks_about_prompt, request.reads)

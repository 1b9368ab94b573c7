"""`Batcher`: accepts sampling requests from any thread and samples them together on the engine's
compute thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from attrs import field, frozen

from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.compute_thread import ComputeThread
from tinkex_server.engine.torch.decoding import Batch
from tinkex_server.engine.torch.device_memory import memory_of
from tinkex_server.engine.torch.mixed_adapters import AdapterPlanner
from tinkex_server.engine.torch.prefill import Prefill, unknown_tokens
from tinkex_server.engine.torch.prefix_cache import PrefixCache, count_common
from tinkex_server.engine.torch.sample_request import GenerationState, SampleRequest

_CACHE_BYTES = 2 << 30
# of the memory, for prompts that later ones may begin with; at most as much as for the samples
_PREFIXES_SHARE = 1 / 16
_LOGITS_AT_ONCE = 1 << 28
# tokens that are worth a pass of their own, which costs more than its tokens
_WORTH_A_PASS = 128
# bounds the delay of running samples by a stream of new ones
_PASSES_BEFORE_A_STEP = 8


@frozen
class BatchBudget:
    """Bounds of the work that runs at once. A request that exceeds them by itself runs alone."""

    samples: int = 256
    cached_tokens: int = 1 << 18  # of all samples, padded to the longest possible
    # of the prompts of one pass, padded to the longest; a longer prompt takes several passes
    prefill_tokens: int = 2048
    scored_prefill_tokens: int = 2048  # the same if the logits of all positions are kept
    prefix_bytes: int = 1 << 28  # of the prompts that are kept for later ones

    @classmethod
    def of(cls, base: LoadedBaseModel) -> BatchBudget:
        """Returns the budget that bounds memory for this model."""
        scored = _LOGITS_AT_ONCE // base.info.vocab_size
        of_rows = _CACHE_BYTES // base.bytes_per_row if base.bytes_per_row else cls().samples
        return cls(
            samples=max(1, min(cls().samples, of_rows)),
            cached_tokens=_CACHE_BYTES // max(1, base.bytes_per_token),
            scored_prefill_tokens=min(cls().prefill_tokens, scored),
            prefix_bytes=min(_CACHE_BYTES, int(memory_of(base.device) * _PREFIXES_SHARE)),
        )

    @property
    def prefill_cached_tokens(self) -> int:
        """The most tokens of all prompts of one prefill, padded to the longest: it has a KV cache
        of its own.
        """
        return self.cached_tokens // 4

    def prefill_limit(self, *, scored: bool) -> int:
        """Returns the most tokens of one prefill pass, padding included."""
        return self.scored_prefill_tokens if scored else self.prefill_tokens


@frozen
class RequestSize:
    """The share of the budget that requests take."""

    samples: int
    longest: int  # most tokens of one sample, its prompt included
    prompt: int = 0  # tokens of its prompt that must be computed
    scored: bool = False
    whole_prompt: int = 0
    prompt_key: Hashable = field(factory=object)  # equal for requests that can share one prefill


def count_admissible(
    waiting: Iterable[RequestSize], running: RequestSize, limits: BatchBudget
) -> int:
    """Returns how many waiting requests, from the first, may be prefilled now: several in one pass,
    or one prompt alone in as many passes as it takes.

    No request overtakes another, so a large one is not starved.
    """
    samples, longest, prompt, scored, count = running.samples, running.longest, 0, False, 0
    whole = 0
    read: set[Hashable] = set()
    for size in waiting:
        samples, longest, prompt = (
            samples + size.samples,
            max(longest, size.longest),
            max(prompt, size.prompt),
        )
        whole, scored = max(whole, size.whole_prompt), scored or size.scored
        read.add(size.prompt_key)
        too_much = samples > limits.samples or samples * longest > limits.cached_tokens
        too_long = (
            len(read) * prompt > limits.prefill_limit(scored=scored)
            or len(read) * whole > limits.prefill_cached_tokens
        )
        if (too_much and samples > size.samples) or (too_long and len(read) > 1):
            break
        count += 1
    return count


class Batcher:
    """A continuous batch of sampling requests for one base model: requests join between any two
    decoding steps, and leave when they are complete. Other computations have their turn between any
    two rounds, of at most one step each.
    """

    def __init__(self, base: LoadedBaseModel, compute: ComputeThread) -> None:
        self._base = base
        self._compute = compute
        self._budget = BatchBudget.of(base)
        self._planner = AdapterPlanner(base.device)
        # a state of all tokens together cannot be cut after those of a prefix
        most = 0 if base.layout.recurrent else self._budget.prefix_bytes
        self._prefixes = PrefixCache(most)
        self._waiting: deque[SampleRequest] = deque()
        self._lock = threading.Lock()  # guards what is waiting and the next two
        self._queued = False  # whether a round is queued or runs
        self._closed = False
        # prefills of several passes, in order of arrival
        self._prefills: list[Prefill] = []
        # None while it would be empty, so that its memory is freed
        self._batch: Batch | None = None

    def submit(self, request: SampleRequest) -> None:
        """Queues a request. Raises `RuntimeError` after `close`."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(request)
            if not self._queued:
                self._queued = True
                self._compute.submit(self._run)

    def close(self) -> None:
        """Cancels all requests once the current round is done."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._compute.run(self._cancel_all)

    def _run(self) -> None:
        """Runs one round, and queues the next behind the work of others."""
        with self._lock:
            if self._closed:
                return
        try:
            self._advance()
        except Exception as error:  # noqa: BLE001  handed on to those who asked
            for request in self._take_all():
                request.resolve(error)
        with self._lock:
            self._queued = bool(self._waiting or self._prefills or self._batch)
            if self._queued and not self._closed:
                self._compute.submit(self._run)

    def _advance(self) -> None:
        self._drop_ended()
        # requests that arrive during a pass are prefilled before the next step, so that a burst of
        # requests is decoded together
        for _ in range(_PASSES_BEFORE_A_STEP):
            if not (requests := self._admit()):
                break
            for group in self._read_together(requests):
                self._start_prefill(group)
        if self._prefills:
            self._advance_prefill(self._prefills[0])
        self._decode()

    def _cancel_all(self) -> None:
        for request in self._take_all():
            request.future.cancel()

    def _take_all(self) -> list[SampleRequest]:
        """Empties the batcher; returns the requests that it had."""
        with self._lock:
            requests = [*self._waiting, *(sample.request for sample in self._running)]
            self._waiting.clear()
        self._prefills, self._batch = [], None
        return requests

    @property
    def _running(self) -> Sequence[GenerationState]:
        """The samples that are being decoded, and those whose prompt is being prefilled."""
        read = [
            sample
            for prefill in self._prefills
            for request in prefill.requests
            for sample in request.samples
        ]
        return [*self._batch.samples, *read] if self._batch else read

    def _admit(self) -> list[SampleRequest]:
        """Takes the requests that may start from the queue."""
        if not self._waiting:
            return []
        under_way = self._running
        longest = max((_longest(sample.request) for sample in under_way), default=0)
        with self._lock:
            count = count_admissible(
                self._candidates(), RequestSize(len(under_way), longest), self._budget
            )
            taken = [self._waiting.popleft() for _ in range(count)]
        return [request for request in taken if not request.future.cancelled()]

    def _candidates(self) -> Iterator[RequestSize]:
        """Yields the sizes of the waiting requests, up to one that had better wait until the prompt
        of one before it, which begins alike, has been computed.
        """
        new: list[SampleRequest] = []
        for request in self._waiting:
            unknown = unknown_tokens(request, self._prefixes)
            if not request.scores_prompt and any(
                _worth_waiting(request, unknown, earlier) for earlier in new
            ):
                return
            if unknown > _WORTH_A_PASS:
                new.append(request)
            yield RequestSize(
                request.spec.num_samples,
                _longest(request),
                unknown,
                request.scores_prompt,
                len(request.prompt),
                request.prompt_key,
            )

    def _read_together(self, requests: Sequence[SampleRequest]) -> Iterable[list[SampleRequest]]:
        """Returns the requests in groups that are prefilled at once."""
        groups: dict[Hashable, list[SampleRequest]] = {}
        for request in requests:
            key = request.prompt_key if self._base.layout.alone else None
            groups.setdefault(key, []).append(request)
        return groups.values()

    def _start_prefill(self, requests: Sequence[SampleRequest]) -> None:
        scored = any(request.scores_prompt for request in requests)
        with _failing_requests(requests):
            prefill = Prefill(
                self._base,
                self._planner,
                self._prefixes,
                requests,
                self._budget.prefill_limit(scored=scored),
            )
            if prefill.takes_several_passes:
                self._prefills.append(prefill)
            else:
                self._advance_prefill(prefill)

    def _advance_prefill(self, prefill: Prefill) -> None:
        """Runs one prefill pass. Running samples decode a token before the next one, so a long
        prompt delays nobody.
        """
        goes_on = False
        with _failing_requests(prefill.requests):
            self._batch = self._batch or Batch(self._base, self._planner)
            goes_on = not prefill.advance()
            if not goes_on:
                self._batch.join(prefill)
        if not goes_on:
            self._prefills = [other for other in self._prefills if other is not prefill]

    def _drop_ended(self) -> None:
        self._prefills = [
            prefill
            for prefill in self._prefills
            if not all(request.future.done() for request in prefill.requests)
        ]
        if self._batch:
            self._batch.drop_ended()
            self._batch = self._batch if self._batch.samples else None

    def _decode(self) -> None:
        batch = self._batch
        if batch is None or not batch.samples:
            return
        try:
            batch.step()
        except Exception as error:  # noqa: BLE001  handed on to those who asked
            for sample in batch.samples:
                sample.request.resolve(error)
            self._batch = None


@contextmanager
def _failing_requests(requests: Iterable[SampleRequest]) -> Generator[None, None, None]:
    """Fails these requests with an error of the block; running samples go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  see above
        for request in requests:
            request.resolve(error)


def _longest(request: SampleRequest) -> int:
    """Returns the most tokens of one sample, its prompt included."""
    return len(request.prompt) + request.max_new_tokens


def _worth_waiting(request: SampleRequest, unknown: int, earlier: SampleRequest) -> bool:
    """Returns whether most of the unknown tokens of a request's prompt will be known after that of
    an earlier request; equal prompts are computed together anyway.
    """
    if request.adapter is not earlier.adapter or request.prompt_key == earlier.prompt_key:
        return False
    known = len(request.prompt) - unknown
    saved = count_common(request.prompt, earlier.prompt) - known
    return saved >= max(_WORTH_A_PASS, unknown / 2)

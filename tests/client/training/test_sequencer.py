"""The order of calls, and which calls are skipped after one that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinkex import ClientPoisonedError, RequestFailedError, RequestSkippedError, TinkexError
from tinkex.training.sequencer import Sequencer, Turn


@pytest.mark.rule(10)
@given(st.permutations(range(6)))
def test_turns_come_in_the_order_of_the_calls_whoever_is_ready_first(ready: Sequence[int]) -> None:
    ran: list[tuple[int, int]] = []

    async def take(sequencer: Sequencer, turn: Turn, name: int) -> None:
        async with turn:
            ran.append((name, sequencer.next_seq_id))
            sequencer.take_numbers()

    async def run() -> None:
        sequencer = Sequencer()
        turns = [sequencer.turn("step") for _ in ready]
        await asyncio.gather(*(take(sequencer, turns[name], name) for name in ready))

    asyncio.run(run())
    assert ran == [(index, index + 1) for index in range(6)]


@pytest.mark.rule(10)
def test_a_cancelled_call_leaves_no_gap() -> None:
    async def run() -> int:
        sequencer = Sequencer()
        first, second, third = (sequencer.turn("step") for _ in range(3))

        async def take(turn: Turn) -> int:
            async with turn:
                number = sequencer.next_seq_id
                sequencer.take_numbers()
                return number

        waiting = asyncio.create_task(take(second))
        await asyncio.sleep(0)
        waiting.cancel()
        last = asyncio.create_task(take(third))
        await asyncio.sleep(0)
        assert not last.done(), "it must not pass the first"
        assert await take(first) == 1
        return await last

    assert asyncio.run(run()) == 2


def test_a_refusal_skips_what_is_called_until_somebody_has_seen_it_and_no_more() -> None:
    async def run() -> None:
        sequencer = Sequencer()
        refused, queued = sequencer.turn("first", 1), sequencer.turn("second", 1)
        async with refused:
            refusal = TinkexError("no such loss")
            sequencer.note_refusal(refusal, changes=True)
        with pytest.raises(RequestSkippedError, match="no such loss"):
            async with queued:
                pytest.fail("its turn must not come")
        with pytest.raises(RequestSkippedError, match="no such loss"):
            async with sequencer.turn("third", 1):
                pytest.fail("nobody has seen the refusal yet")
        refusal.delivered = True
        async with sequencer.turn("fourth", 1):
            assert sequencer.next_seq_id == 1

    asyncio.run(run())


def test_an_unknown_outcome_stops_all_later_calls() -> None:
    async def run() -> None:
        sequencer = Sequencer()
        async with sequencer.turn("first"):
            sequencer.poison(TinkexError("nobody knows"))
        for _ in range(2):
            with pytest.raises(ClientPoisonedError, match="nobody knows"):
                async with sequencer.turn("later"):
                    pytest.fail("its turn must not come")

    asyncio.run(run())


@pytest.mark.rule(10)
def test_a_number_that_was_left_free_is_taken_once_all_under_way_are_settled() -> None:
    async def run() -> None:
        sequencer = Sequencer()
        sequencer.take_numbers(3)
        with sequencer.awaiting_result():
            sequencer.free_number(3)
            sequencer.free_number(2)
            sequencer.free_number(3)
            settling = asyncio.create_task(sequencer.reclaim_numbers())
            await asyncio.sleep(0)
            assert (settling.done(), sequencer.next_seq_id) == (False, 4)
        await settling
        assert sequencer.next_seq_id == 2
        await sequencer.reclaim_numbers()
        assert sequencer.next_seq_id == 2

    asyncio.run(run())


def lost(number: int) -> RequestFailedError:
    return RequestFailedError(f"loss {number}", category="server", state_loss=number)


def test_calls_made_before_a_loss_is_known_are_skipped() -> None:
    async def run() -> list[bool]:
        sequencer = Sequencer()
        queued = sequencer.turn("step", 1)
        first, second = lost(1), lost(1)
        sequencer.note_state_loss(first)
        unaware, unload = sequencer.turn("step", 1), sequencer.turn("unload_model")
        second.delivered = True
        sequencer.note_state_loss(second)
        aware = sequencer.turn("step", 1)
        skipped = [is_skipped(sequencer, turn) for turn in (queued, unaware, unload, aware)]
        sequencer.note_state_loss(lost(2))
        return [*skipped, is_skipped(sequencer, aware)]

    assert asyncio.run(run()) == [True, True, False, False, True]


def test_a_failure_without_a_loss_skips_nothing() -> None:
    async def run() -> bool:
        sequencer = Sequencer()
        turn = sequencer.turn("step", 1)
        sequencer.note_state_loss(RequestFailedError("broke", category="server"))
        return is_skipped(sequencer, turn)

    assert asyncio.run(run()) is False


def is_skipped(sequencer: Sequencer, turn: Turn) -> bool:
    try:
        sequencer.check(turn)
    except RequestSkippedError:
        return True
    return False

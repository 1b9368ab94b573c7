from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tinkex_server.jobs.turns import Turns


def taken(turns: Turns[int]) -> list[int]:
    items: list[int] = []
    while (item := turns.take()) is not None:
        items.append(item)
    return items


@given(st.integers(1, 30).flatmap(lambda count: st.permutations(range(1, count + 1))))
def test_numbered_items_come_in_the_order_of_their_numbers_however_they_arrive(
    arrivals: list[int],
) -> None:
    turns: Turns[int] = Turns()
    got: list[int] = []
    for number in arrivals:
        turns.put(number, number)
        got += taken(turns)
    assert got == sorted(arrivals)


def test_an_item_without_a_number_does_not_wait_for_a_gap() -> None:
    turns: Turns[int] = Turns()
    turns.put(1, 1)
    turns.put(3, 3)
    turns.put(None, 50)
    assert taken(turns) == [1, 50]
    turns.put(2, 2)
    assert taken(turns) == [2, 3]


def test_items_waiting_for_a_gap_are_listed_and_can_be_dropped() -> None:
    turns: Turns[int] = Turns()
    turns.put(3, 3)
    turns.put(2, 2)
    assert (turns.waits_for(3), turns.waits_for(1), turns.waits_for(None)) == (1, None, None)
    assert turns.drop_early() == [2, 3]
    turns.put(1, 1)
    assert taken(turns) == [1]


@given(st.integers(2, 20).flatmap(lambda count: st.permutations(range(1, count + 1))), st.data())
def test_nothing_waits_for_a_number_that_was_skipped(
    arrivals: list[int], data: st.DataObject
) -> None:
    skipped = data.draw(st.sets(st.sampled_from(arrivals)))
    turns: Turns[int] = Turns()
    got: list[int] = []
    for number in arrivals:
        if number in skipped:
            turns.skip(number)
        else:
            turns.put(number, number)
        got += taken(turns)
    assert got == sorted(set(arrivals) - skipped)


def test_a_skipped_number_may_be_given_to_another_item_before_and_after_its_turn() -> None:
    turns: Turns[int] = Turns()
    turns.skip(2)
    turns.put(2, 20)
    turns.skip(3)
    assert taken(turns) == []
    turns.put(1, 10)
    assert taken(turns) == [10, 20]
    turns.put(3, 30)
    turns.put(4, 40)
    assert taken(turns) == [30, 40]


def test_skipping_a_number_that_is_in_use_changes_nothing() -> None:
    turns: Turns[int] = Turns()
    turns.put(2, 20)
    turns.skip(2)
    turns.put(1, 10)
    turns.skip(1)
    assert taken(turns) == [10, 20]

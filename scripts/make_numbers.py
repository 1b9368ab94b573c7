"""Writes the data of the demo, tinkex/demo/numbers.*.jsonl: numbers from 1 to 9999,
in words and in digits.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "tinkex" / "demo"
SEED = 0
# (first, last, how many to train on, how many to hold out): by length, since most numbers up to
# 9999 are long
GROUPS = [(1, 99, 80, 10), (100, 999, 400, 30), (1000, 9999, 1000, 60)]

ONES = [
    "",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number: int) -> str:
    """Spells out a number from 1 to 9999 in British English."""
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f"-{ONES[ones]}" if ones else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    count, rest = divmod(number, size)
    link = " and " if rest < 100 else " "
    return f"{in_words(count)} {name}" + (f"{link}{in_words(rest)}" if rest else "")


def write(name: str, numbers: list[int]) -> None:
    lines = (
        json.dumps({"prompt": f"{in_words(number)} =", "completion": f" {number}"})
        for number in numbers
    )
    (FOLDER / name).write_text("".join(f"{line}\n" for line in lines))


def main() -> None:
    rng = random.Random(SEED)
    train: list[int] = []
    held_out: list[int] = []
    for first, last, to_train, to_hold_out in GROUPS:
        numbers = rng.sample(range(first, last + 1), to_train + to_hold_out)
        train += numbers[:to_train]
        held_out += numbers[to_train:]
    rng.shuffle(train)
    rng.shuffle(held_out)
    write("numbers.train.jsonl", train)
    write("numbers.held_out.jsonl", held_out)


if __name__ == "__main__":
    main()

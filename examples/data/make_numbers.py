"""Writes numbers.train.tsv and numbers.held_out.tsv beside itself: the numbers 1 to 999, in words and in digits."""

from __future__ import annotations

import random
from pathlib import Path

FOLDER = Path(__file__).parent
HELD_OUT = 80
SEED = 0

# fmt: off
ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
# fmt: on


def words(number: int) -> str:
    """A number below a thousand as it is read in British English."""
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f" {ONES[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{ONES[hundreds]} hundred" + (f" and {words(rest)}" if rest else "")


def write(name: str, numbers: list[int]) -> None:
    (FOLDER / name).write_text("".join(f"{words(number)}\t{number}\n" for number in numbers))


if __name__ == "__main__":
    shuffled = random.Random(SEED).sample(range(1, 1000), 999)
    write("numbers.held_out.tsv", shuffled[:HELD_OUT])
    write("numbers.train.tsv", shuffled[HELD_OUT:])

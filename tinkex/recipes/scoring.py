"""Functions that score answers: rewards of reinforcement learning, and the accuracy of `eval`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from tinkex.data import PromptRow

Scorer: TypeAlias = Callable[[Mapping[str, Any], str], float]
"""A function `score(row, answer)` that returns a number. `row` is the object on the prompt's line
of the data file, and `answer` the text that the model wrote, without special tokens.

Example:
    def score(row, answer):
        return float(answer.strip() == row["completion"].strip())
"""


def scored(scorer: Scorer, prompt: PromptRow, answer: str) -> float:
    """Returns the score of an answer.

    Raises:
        DataError: the function failed, or returned no finite number. The message names the row.
    """
    try:
        value = float(scorer(prompt.row.fields, answer))
    except Exception as error:
        raise prompt.row.error(
            f"the scoring function failed on this row and the answer {answer!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not math.isfinite(value):
        raise prompt.row.error(f"the scoring function returned {value} for the answer {answer!r}")
    return value


def exact_match(row: Mapping[str, Any], answer: str) -> float:
    """Returns 1 if the answer is the row's own, apart from white space around it; otherwise 0.

    The row's own answer is its `completion`, or the last message of its chat.
    """
    expected: Any = row.get("completion") or row.get("messages")
    if isinstance(expected, list):
        expected = cast("list[dict[str, Any]]", expected)[-1]["content"]
    if expected is None:
        raise ValueError("the row has neither 'completion' nor 'messages' to compare with")
    return float(answer.strip() == str(expected).strip())

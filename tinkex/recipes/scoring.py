"""Functions that score answers: rewards of reinforcement learning, and the accuracy of `eval`."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias, cast

from tinkex import InvalidInputError
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
        InvalidInputError: the function failed, or returned no finite number. The message names the
            row, and the line of the function.
    """
    where = f"{prompt.row.path}:{prompt.row.line}"
    try:
        value: object = scorer(prompt.row.fields, answer)
    except Exception as error:
        raise InvalidInputError(
            f"{where}: the scoring function failed on this row and the answer {answer!r}: "
            f"{type(error).__name__}: {error}{_line_of(error)}"
        ) from error
    if isinstance(value, Coroutine):
        value.close()
        raise InvalidInputError(
            "the scoring function is a coroutine function",
            advice="Give a function that returns the number itself: def, not async def.",
        )
    try:
        number = float(cast("float", value))
    except (TypeError, ValueError, RuntimeError) as error:  # torch raises RuntimeError
        raise InvalidInputError(
            f"{where}: the scoring function returned {value!r} for the answer {answer!r}, and must "
            "return a number"
        ) from error
    if not math.isfinite(number):
        raise InvalidInputError(
            f"{where}: the scoring function returned {number} for the answer {answer!r}"
        )
    return number


def _line_of(error: Exception) -> str:
    """Returns the line of the function that raised the error; "" where the call itself did."""
    _, *frames = traceback.extract_tb(error.__traceback__)
    return f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


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

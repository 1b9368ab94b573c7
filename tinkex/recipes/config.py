"""The settings that all recipes share, and how settings are read from a TOML file.

Each setting is a field with a help text. The command line makes its flags from these fields.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from attrs import NOTHING, Attribute, asdict, define, field, fields

from tinkex import AdamParams, InvalidInputError

TINY = "tinkex/tiny"
TRACKERS = ("tensorboard", "trackio", "wandb")


def setting(
    help: str,
    default: Any = NOTHING,
    *,
    least: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Returns a field of a config.

    Args:
        help: the help text of its flag.
        default: its default; none makes it required. A list is a flag that can be repeated.
        least: its smallest value.
        choices: its values, if only these are possible.
    """

    def check(config: object, attribute: Attribute[Any], value: Any) -> None:
        if least is not None and value is not None and value < least:
            raise InvalidInputError(f"{attribute.name} must be {least:g} or more, found {value!r}")
        values = cast("list[object]", value) if isinstance(value, list) else [value]
        for each in values:
            if choices and each not in choices:
                known = ", ".join(choices)
                raise InvalidInputError(f"{attribute.name} must be one of {known}; found {each!r}")

    metadata = {"help": help, "choices": choices}
    if isinstance(default, list):
        return field(factory=list[str], validator=check, metadata=metadata)
    return field(default=default, validator=check, metadata=metadata)


@define(kw_only=True)
class TrainConfig:
    """The settings that all recipes share.

    Example:
        config = SftConfig.from_toml("sft.toml", steps=200)
        result = train(config, service)
    """

    recipe: ClassVar[str]
    """The recipe's name on the command line."""

    data: str = setting("JSONL file to train on.")
    model: str = setting("Base model to train.", TINY)
    start_from: str | None = setting(
        "Saved state (tinker://…/weights/…) to start from, in place of a new adapter.", None
    )
    out: str | None = setting(
        "Folder for the metrics, the settings and the place to resume from.  "
        "[default: runs/RECIPE-TIME]",
        None,
    )
    steps: int | None = setting(
        "Number of steps.  [default: as many as the epochs have]", None, least=1
    )
    epochs: int = setting("Number of times to go through the data.", 1, least=1)
    batch_size: int = setting("Rows of the data in each step.", 8, least=1)
    rank: int = setting("Rank of the LoRA adapter.", 16, least=0)
    learning_rate: float | None = setting(
        "Highest learning rate of Adam.  [default: 3e-3 for tinkex/tiny, else 1e-4]", None
    )
    schedule: str = setting(
        "Course of the learning rate: down to 0, or constant.",
        "linear",
        choices=("linear", "cosine", "constant"),
    )
    seed: int = setting("Seed of the adapter, of the order of the data, and of samples.", 0)
    max_length: int | None = setting(
        "Tokens after which an example is cut.  [default: the context of the model]", None, least=2
    )
    chat_template: str | None = setting(
        "Chat template of your own, a function as module:function or file.py:function.  "
        "[default: the tokenizer's]",
        None,
    )
    eval_data: str | None = setting("JSONL file of held-out rows to evaluate on.", None)
    eval_every: int | None = setting(
        "Steps from one evaluation to the next.  [default: a fifth of the run]", None, least=1
    )
    save_every: int = setting("Steps from one save of the state to the next.", 50, least=1)
    keep_all: bool = setting("Keep every saved state, and not the last one alone.", False)
    log: list[str] = setting(
        "Tracker that gets the metrics, too; repeatable.", [], choices=TRACKERS
    )

    @classmethod
    def from_toml(cls, path: Path | str, **flags: Any) -> Self:
        """Reads settings from a TOML file. `flags` take precedence over it.

        Raises:
            InvalidInputError: the file is not TOML, or a setting is unknown, missing or wrong.
            OSError: the file cannot be read.
        """
        return cls.of({**read_toml(path), **flags}, str(path))

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "the settings") -> Self:
        """Returns a config of settings by name.

        Raises:
            InvalidInputError: a setting is unknown, missing or wrong. The message begins with
                `where`.
        """
        known = {attribute.name: attribute for attribute in fields(cls)}
        for name, value in values.items():
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."
                raise InvalidInputError(f"{where}: unknown setting {name!r}", advice=hint)
            _check_type(where, name, value, str(known[name].type))
        for name, attribute in known.items():
            if attribute.default is NOTHING and name not in values:
                raise InvalidInputError(f"{where}: the setting {name!r} is missing")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings by name, as plain values."""
        return asdict(self)

    def total_steps(self, rows: int) -> int:
        """Returns the number of steps of a run over so many rows."""
        return self.steps or math.ceil(rows * self.epochs / self.batch_size)

    def adam(self, step: int, total: int) -> AdamParams:
        """Returns the settings of Adam for a step, counted from 0, of `total`."""
        highest = self.learning_rate or (3e-3 if self.model == TINY else 1e-4)
        progress = step / total
        factors = {
            "constant": 1.0,
            "linear": 1 - progress,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
        }
        return AdamParams(learning_rate=highest * factors[self.schedule])


def read_toml(path: Path | str) -> dict[str, Any]:
    """Returns what is in a TOML file. Raises `InvalidInputError` if it is not TOML."""
    with Path(path).open("rb") as file:
        try:
            return tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{path} is not TOML: {error}") from error


_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list[str]": (list,),
}


def _check_type(where: str, name: str, value: Any, declared: str) -> None:
    if value is None and declared.endswith(" | None"):
        return
    kind = declared.removesuffix(" | None")
    expected = _TYPES[kind]
    if not isinstance(value, expected) or (isinstance(value, bool) and kind != "bool"):
        raise InvalidInputError(f"{where}: {name!r} must be of type {kind}, found {value!r}")

"""Errors at the end of a command: their exit codes, words and hints."""

from __future__ import annotations

import click
import pytest

import tinkex
from tinkex.cli import main
from tinkex.cli.exit_codes import MEANINGS, ExitCode
from tinkex.cli.failures import Failure, explain
from tinkex.cli.invocation import Invocation
from tinkex.data.rows import error_at

CODES: dict[BaseException, int] = {
    Failure("x", code=7): 7,
    KeyboardInterrupt(): 130,
    click.Abort(): 130,
    click.UsageError("x"): 2,
    click.ClickException("x"): 1,
    ValueError("x"): 1,
    FileNotFoundError(2, "No such file or directory", "data.jsonl"): 1,
    tinkex.NotFoundError("x", status_code=404): 3,
    tinkex.GoneError("x", status_code=410): 3,
    tinkex.AuthenticationError("x", status_code=401): 4,
    tinkex.PermissionDeniedError("x", status_code=403): 4,
    tinkex.MissingKeyError("x"): 4,
    tinkex.CredentialError("x"): 4,
    tinkex.APIConnectionError("x"): 5,
    tinkex.APITimeoutError("x"): 5,
    tinkex.WaitTimeoutError("x", waited=3.0): 5,
    tinkex.NotATinkerServerError("x"): 5,
    tinkex.StepOutcomeUnknown("x"): 6,
    tinkex.ClientPoisonedError("x"): 6,
    tinkex.ConfigError("x"): 2,
    tinkex.InvalidInputError("x"): 2,
    tinkex.RequestFailedError("x"): 1,
    tinkex.BadRequestError("x", status_code=400): 1,
    tinkex.InternalServerError("x", status_code=500): 1,
    tinkex.UnsupportedByServer("x", server="skyrl"): 1,
}


def invocation() -> Invocation:
    made = Invocation(["run", "info", "x y"])
    made.command_path = "tinkex run info"
    return made


@pytest.mark.parametrize("error", CODES, ids=lambda error: type(error).__name__)
def test_an_error_has_its_exit_code(error: BaseException) -> None:
    assert explain(error, invocation()).code == CODES[error]


@pytest.mark.parametrize("error", CODES, ids=lambda error: type(error).__name__)
def test_a_hint_is_a_command(error: BaseException) -> None:
    hint = explain(error, invocation()).hint
    if not isinstance(error, (Failure, KeyboardInterrupt, click.ClickException, click.Abort)):
        assert hint is not None
        program, *words = hint.removeprefix("TINKEX_DEBUG=1 ").split()
        assert program == "tinkex"
        assert leads_to_a_command(words), hint


def leads_to_a_command(words: list[str]) -> bool:
    """Returns whether the first words are those of a command that there is."""
    found: click.Command | None = main
    for word in words:
        if not isinstance(found, click.Group):
            break
        found = found.get_command(click.Context(found), word)
    return found is not None and not isinstance(found, click.Group)


@pytest.mark.parametrize("group", ["run", "checkpoint", "session", "model"])
def test_the_hint_for_a_thing_that_is_not_there_lists_those_that_are(group: str) -> None:
    made = invocation()
    made.command_path = f"tinkex {group} info"
    hint = explain(tinkex.NotFoundError("x", status_code=404), made).hint
    assert hint == f"tinkex {group} list"
    assert leads_to_a_command([group, "list"])


def data_error() -> tinkex.InvalidInputError:
    return error_at("my data.jsonl", 3, "not JSON")


@pytest.mark.parametrize(
    ("error", "path", "hint"),
    [
        (data_error(), "train sft", "tinkex data check 'my data.jsonl'"),
        (
            tinkex.BadRequestError("x", status_code=400, operation="create_model"),
            "train sft",
            "tinkex model list",
        ),
        (
            tinkex.NotFoundError("x", status_code=404, operation="create_sampling_session"),
            "sample",
            "tinkex checkpoint list",
        ),
        (tinkex.NotFoundError("x", status_code=404), "run list", "tinkex doctor"),
        (tinkex.NotFoundError("x", status_code=404), "sample", "tinkex doctor"),
        (tinkex.BadRequestError("x", status_code=400), "run info", "tinkex run info --help"),
    ],
)
def test_the_hint_leads_to_the_cause(error: Exception, path: str, hint: str) -> None:
    made = invocation()
    made.command_path = f"tinkex {path}"
    assert explain(error, made).hint == hint


def test_a_line_too_long_to_read_is_not_repeated() -> None:
    made = Invocation(["sample", "x" * 10_000])
    made.command_path = "tinkex sample"
    assert explain(ValueError("x"), made).hint == "tinkex sample --help"


@pytest.mark.parametrize("option", [["--data", "in/data.jsonl"], ["--data=in/data.jsonl"]])
def test_a_file_of_the_command_line_that_is_not_there_is_a_wrong_argument(
    option: list[str],
) -> None:
    failure = explain(
        FileNotFoundError(2, "No such file or directory", "in/data.jsonl"), Invocation(option)
    )
    assert (failure.code, failure.hint) == (ExitCode.USAGE, "ls in")


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ExitCode)


def test_a_file_is_named() -> None:
    error = FileNotFoundError(2, "No such file or directory", "data.jsonl")
    assert explain(error, invocation()).message == "data.jsonl: No such file or directory"


def test_the_request_and_the_advice_are_shown() -> None:
    error = tinkex.RequestFailedError("the loss is not finite", "req-7", advice="Lower the rate.")
    failure = explain(error, invocation())
    assert failure.described().splitlines() == [
        "Error: the loss is not finite",
        "  Lower the rate.",
        "  request req-7",
        "hint: TINKEX_DEBUG=1 tinkex run info 'x y'",
    ]
    assert '"request_id": "req-7"' in failure.as_json()

"""The rules of the command line, each in a pipe and on a terminal, as processes before a server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.client.cli.conftest import Things, things_on
from tests.support.command_line import in_pipe, on_terminal, start
from tinkex.cli import main
from tinkex.local import Server

TINKEX = (sys.executable, "-m", "tinkex")
ESCAPE, RETURN = "\x1b", "\r"


@pytest.fixture(scope="module")
def one(fake_server: Server) -> Things:
    """Things that the tests of this module only read."""
    return things_on(fake_server.base_url)


@contextmanager
def silent_server() -> Iterator[str]:
    """Yields the address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


# 1: stdout has the data and nothing else.


def test_in_a_pipe_stdout_has_the_data_and_stderr_the_rest(one: Things) -> None:
    done = in_pipe("run", "list", "--limit=1", TINKER_BASE_URL=one.base_url)
    [row] = [line.split("\t") for line in done.out.splitlines()]
    assert done.code == 0
    assert re.fullmatch(r"s-\w+:train:0", row[0])
    assert row[1:3] == ["tinkex/tiny", "4"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", row[3])
    assert done.err == "The first 1 training runs are listed; --all lists all.\n"


def test_on_a_terminal_stdout_has_a_table_and_stderr_the_rest(one: Things) -> None:
    done = on_terminal("run", "list", "--limit=1", TINKER_BASE_URL=one.base_url)
    header, row = re.sub(r"\x1b\[[\d;]*m", "", done.out).splitlines()
    assert done.code == 0
    assert header.split() == ["id", "model", "lora", "updated", "status", "name"]
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d  ok +- *$", row)
    assert done.err == "The first 1 training runs are listed; --all lists all.\n"


def test_json_is_the_same_in_a_pipe_and_on_a_terminal(one: Things) -> None:
    args = ("run", "info", one.run, "--json=id,status,lora,user_metadata")
    shown = on_terminal(*args, TINKER_BASE_URL=one.base_url)
    assert json.loads(shown.out) == json.loads(in_pipe(*args, TINKER_BASE_URL=one.base_url).out)
    assert json.loads(shown.out) == {
        "id": one.run,
        "status": "ok",
        "lora": 4,
        "user_metadata": {},
    }


@pytest.mark.parametrize("before", [["--format", "json"], ["-f", "json"]])
def test_the_format_of_the_official_command_line_works(one: Things, before: list[str]) -> None:
    done = in_pipe(*before, "run", "info", one.run, TINKER_BASE_URL=one.base_url)
    assert json.loads(done.out)["id"] == one.run
    failed = in_pipe(*before, "run", "info", "x", TINKER_BASE_URL=one.base_url)
    assert (failed.code, json.loads(failed.out)["error"]["code"]) == (3, 3)


def test_the_table_of_the_official_command_line_works_in_a_pipe(one: Things) -> None:
    done = in_pipe("-f", "table", "run", "list", "--limit=1", TINKER_BASE_URL=one.base_url)
    assert done.out.splitlines()[0].split() == ["id", "model", "lora", "updated", "status", "name"]


def test_quiet_writes_ids_only(one: Things) -> None:
    args = ("checkpoint", "list", "--run", one.run, "-q")
    for done in (
        in_pipe(*args, TINKER_BASE_URL=one.base_url),
        on_terminal(*args, TINKER_BASE_URL=one.base_url),
    ):
        assert done.out.splitlines() == [one.sampler_path, one.path]
        assert done.err == ""


def test_two_forms_at_once_are_refused() -> None:
    done = in_pipe("run", "list", "--json", "-q")
    assert (done.code, json.loads(done.out)["error"]["message"]) == (
        2,
        "--json and --quiet exclude each other",
    )


# 2: no escapes but on a terminal; each stream is judged by itself.


def test_a_pipe_gets_no_escapes(one: Things, nowhere: str) -> None:
    for args in (["run", "list"], ["run", "info", "x"], ["run", "lst"]):
        done = in_pipe(*args, TINKER_BASE_URL=one.base_url)
        assert ESCAPE not in done.out + done.err
        assert RETURN not in done.out + done.err


def test_each_stream_is_judged_by_itself(one: Things) -> None:
    table = on_terminal("run", "list", out_is_pipe=True, TINKER_BASE_URL=one.base_url)
    assert "\t" in table.out
    assert ESCAPE not in table.out
    failed = on_terminal("run", "info", "x", out_is_pipe=True, TINKER_BASE_URL=one.base_url)
    assert ESCAPE in failed.err


def test_a_terminal_has_colors_unless_they_are_off() -> None:
    def has_colors(*args: str, **variables: str) -> bool:
        listed = on_terminal("config", "show", *args, TINKER_BASE_URL="http://x", **variables)
        failed = on_terminal("config", "shw", **variables)
        assert (listed.code, failed.code) == (0, 2)
        assert args or (ESCAPE in listed.out) == (ESCAPE in failed.err)
        return ESCAPE in listed.out

    assert has_colors()
    assert not has_colors(NO_COLOR="1")
    assert not has_colors(TERM="dumb")
    assert not has_colors(NO_COLOR="1", CLICOLOR_FORCE="1")
    assert not has_colors("--color=never")


def test_colors_can_be_forced_in_a_pipe() -> None:
    def has_colors(*args: str, **variables: str) -> bool:
        return ESCAPE in in_pipe(*args, TINKER_BASE_URL="http://x", **variables).out

    table = ("-f", "table", "config", "show")
    assert not has_colors(*table)
    assert has_colors(*table, CLICOLOR_FORCE="1")
    assert has_colors(*table, "--color=always")
    assert ESCAPE in in_pipe("config", "shw", CLICOLOR_FORCE="1").err


def test_a_terminal_can_be_forced(one: Things) -> None:
    done = in_pipe("run", "list", TINKER_BASE_URL=one.base_url, TINKEX_FORCE_TTY="72")
    lines = re.sub(r"\x1b\[[\d;]*m", "", done.out).splitlines()
    assert lines[0].split() == ["id", "model", "lora", "updated", "status", "name"]
    assert max(map(len, lines)) <= 72


# 3: exit codes. test_failures.py has the code of each error.


def test_ctrl_c_ends_with_130() -> None:
    with silent_server() as url:
        process = subprocess.Popen(
            [*TINKEX, "run", "list", "--base-url", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert first.startswith(f"Waiting for {url}: no answer yet.")
    assert (process.returncode, out, err.splitlines()[-1]) == (130, "", "Error: interrupted")
    assert "Traceback" not in err


# 4: a server that is not there, and one that is silent.


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_dead_server_is_reported_within_3_seconds(nowhere: str, form: list[str]) -> None:
    began = time.monotonic()
    done = CliRunner().invoke(main, ["run", "list", "--base-url", nowhere, *form])
    assert time.monotonic() - began < 3.0
    assert done.exit_code == 5
    if form:
        error = json.loads(done.stdout)["error"]
        message, hint = error["message"], error["hint"]
    else:
        assert done.stdout == ""
        message, hint = done.stderr.rsplit("hint: ", 1)
    assert f"{nowhere} cannot be reached: Connection refused" in message.splitlines()[0]
    assert "`tinkex serve`" in message
    assert hint.strip() == "tinkex doctor"


@pytest.mark.parametrize("on_tty", [False, True])
def test_a_silent_server_is_named_at_once_and_given_up_at_the_bound(on_tty: bool) -> None:
    began = time.monotonic()
    with silent_server() as url:
        run = on_terminal if on_tty else in_pipe
        done = run(
            "run", "list", "--base-url", url, TINKEX_TIMEOUT="3", TINKEX_RETRY_MAX_SECONDS="1"
        )
    took = time.monotonic() - began
    first, *rest = done.err.splitlines()
    assert first == (
        f"Waiting for {url}: no answer yet. Each request may take 3 s; Ctrl-C stops it."
    )
    assert done.code == 5
    assert 3.0 <= took < 15.0
    assert any(line.endswith("tinkex doctor") for line in rest)


# 5: the first line says what failed, the last what to do.


def test_an_error_has_no_traceback_unless_it_is_asked_for(one: Things) -> None:
    args = ("run", "info", "x", "--base-url", one.base_url)
    plain = in_pipe(*args)
    assert plain.err == "Error: there is no training run x\nhint: tinkex run list\n"
    for done in (in_pipe(*args, "--debug"), in_pipe(*args, TINKEX_DEBUG="1")):
        assert done.err.startswith("Traceback")
        assert done.err.endswith(plain.err)
        assert done.code == 3


def test_a_missing_key_says_so_and_never_mentions_the_network() -> None:
    for done in (in_pipe("run", "list"), on_terminal("run", "list", NO_COLOR="1")):
        assert done.err == "Error: no API key for the hosted service\nhint: tinkex auth login\n"
        assert (done.code, done.out) == (4, "")


# 6: typos.


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["chekpoint"], "checkpoint"),
        (["checkpoint", "lst"], "list"),
        (["help", "exit-code"], "exit-codes"),
        (["run", "list", "--limt=3"], "'--limit'"),
        (["--fromat", "json"], "'--format'"),
    ],
)
def test_a_misspelt_command_or_option_gets_a_suggestion(args: list[str], meant: str) -> None:
    done = CliRunner().invoke(main, args)
    assert (done.exit_code, done.stdout) == (2, "")
    first, last = done.stderr.splitlines()
    assert re.search(rf"Did you mean (one of: )?{meant}", first)
    assert last.startswith("hint: tinkex")


def test_a_misspelt_name_gets_a_suggestion(things: Things) -> None:
    for args, meant in (
        (["run", "info", f"{things.run}0"], things.run),
        (["checkpoint", "info", things.path.replace("state", "stat")], things.path),
        (["checkpoint", "delete", things.path.replace("state", "stte"), "--yes"], things.path),
        (["session", "info", f"{things.session}a"], things.session),
        (["model", "list", "tniy"], "tinkex/tiny"),
    ):
        done = CliRunner().invoke(main, args)
        assert done.exit_code == 3, done
        assert done.stderr.splitlines()[0].endswith(f". Did you mean {meant}?")


# 7: nothing is asked without a terminal.


def test_without_a_terminal_a_question_is_an_error_that_names_the_option(things: Things) -> None:
    done = in_pipe("checkpoint", "delete", things.path, TINKER_BASE_URL=things.base_url)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == f"hint: tinkex checkpoint delete {things.path} --yes"
    assert in_pipe("checkpoint", "info", things.path, TINKER_BASE_URL=things.base_url).code == 0
    piped = in_pipe(
        "checkpoint", "delete", things.path, given="y\n", TINKER_BASE_URL=things.base_url
    )
    assert piped.code == 2


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\x04", 130)])
def test_on_a_terminal_the_question_shows_number_and_size(
    things: Things, answer: str, code: int
) -> None:
    question = "Delete 1 checkpoint (52 B) permanently? [y/N]: "
    done = on_terminal(
        "checkpoint",
        "delete",
        things.path,
        answers={question: answer},
        TINKER_BASE_URL=things.base_url,
        NO_COLOR="1",
    )
    assert done.code == code
    assert done.err.startswith(f"  {things.path}\n")
    assert ("Deleted 1 checkpoint; 52 B freed." in done.err) == (code == 0)
    left = in_pipe("checkpoint", "list", "-q", "--run", things.run, TINKER_BASE_URL=things.base_url)
    assert (things.path in left.out.split()) == (code != 0)


def test_login_asks_on_a_terminal_and_shows_no_key(one: Things, tmp_path: Path) -> None:
    done = on_terminal(
        "auth",
        "login",
        answers={"API key: ": "tml-secret-of-a-test\n"},
        TINKER_BASE_URL=one.base_url,
        HOME=str(tmp_path),
    )
    assert done.code == 0
    assert "tml-…test" in done.out
    assert "secret" not in done.out + done.err
    file = tmp_path / ".tinker" / "credentials.json"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert "tml-secret-of-a-test" in file.read_text()


# 9: tables are cut to the width and say so.


def test_a_table_is_cut_to_the_width_and_says_so(one: Things) -> None:
    args = ("checkpoint", "list", "--run", one.run)
    narrow = on_terminal(*args, columns=60, TINKER_BASE_URL=one.base_url, NO_COLOR="1")
    assert max(map(len, narrow.out.splitlines())) <= 60
    assert "…" in narrow.out
    assert re.search(r"^Cut to 60 columns: .*path.*\. --no-truncate shows all\.$", narrow.err, re.M)
    whole = on_terminal(
        *args, "--no-truncate", columns=60, TINKER_BASE_URL=one.base_url, NO_COLOR="1"
    )
    assert one.path in whole.out
    assert "Cut to" not in whole.err
    piped = in_pipe(*args, TINKER_BASE_URL=one.base_url, COLUMNS="20")
    assert one.path in piped.out


def test_a_wide_terminal_cuts_nothing(one: Things) -> None:
    done = on_terminal(
        "checkpoint", "list", "--run", one.run, columns=200, TINKER_BASE_URL=one.base_url
    )
    assert one.path in done.out
    assert "Cut to" not in done.err


def test_times_are_local_on_a_terminal_and_in_utc_in_data(one: Things) -> None:
    args = ("run", "info", one.run)
    data = json.loads(in_pipe(*args, "--json", TINKER_BASE_URL=one.base_url).out)["updated"]
    shown = on_terminal(*args, TINKER_BASE_URL=one.base_url, TZ="UTC-5", NO_COLOR="1").out
    found = re.search(r"^updated: +(\S+) (\d\d):(\d\d)$", shown, re.M)
    assert found
    assert data.endswith("Z")
    assert int(found[2]) == (int(data[11:13]) + 5) % 24
    assert found[3] == data[14:16]


def test_a_limit_ends_the_list_and_all_does_not(fake_server: Server) -> None:
    made = {things_on(fake_server.base_url).run for _ in range(3)}
    url = {"TINKER_BASE_URL": fake_server.base_url}
    assert len(in_pipe("run", "list", "-q", "--limit=2", **url).out.split()) == 2
    for everything in ("--all", "--limit=0"):
        assert made <= set(in_pipe("run", "list", "-q", everything, **url).out.split())


def test_a_reader_that_has_enough_is_no_error(one: Things, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (tmp_path / "err").open("w+") as err, Path(os.devnull).open() as nothing:
        for args in (["run", "list", "--base-url", one.base_url], ["help", "environment"]):
            process = start(args, [nothing.fileno(), writer, err.fileno()], {})
            process.join()
            assert process.exitcode == 0
        err.seek(0)
        assert err.read() == ""
    os.close(writer)


# 10: completion.


def completed(*words: str, **variables: str) -> list[str]:
    """Returns what a shell offers for the last word."""
    done = in_pipe(
        _TINKEX_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(["tinkex", *words]),
        COMP_CWORD=str(len(words)),
        **variables,
    )
    assert done.err == ""
    return [line.partition(",")[2] for line in done.out.splitlines() if line]


def test_commands_and_options_are_completed() -> None:
    assert completed("check") == ["checkpoint"]
    assert completed("checkpoint", "p") == ["publish", "push-hf"]
    assert "--keep-last" in completed("checkpoint", "delete", "--keep")


def test_names_of_the_server_are_completed_and_kept_for_a_minute(
    one: Things, tmp_path: Path, nowhere: str
) -> None:
    here = {"TINKER_BASE_URL": one.base_url, "XDG_CACHE_HOME": str(tmp_path)}
    assert one.run in completed("run", "info", "s-", **here)
    assert one.session in completed("session", "info", "", **here)
    assert completed("model", "list", "tin", **here) == ["tinkex/tiny"]
    paths = completed("checkpoint", "info", "tinker", **here)
    assert {one.path, one.sampler_path} <= set(paths)
    assert completed("checkpoint", "info", "x", **here) == []

    [kept] = tmp_path.glob("tinkex/completion/models-*.json")
    kept.write_text('["tinkex/kept"]')
    assert completed("model", "list", "tin", **here) == ["tinkex/kept"]
    os.utime(kept, (0, 0))
    assert completed("model", "list", "tin", **here) == ["tinkex/tiny"]
    kept.write_text("damaged")
    assert completed("model", "list", "tin", **here) == ["tinkex/tiny"]
    assert completed("model", "list", "tin", **{**here, "TINKER_BASE_URL": nowhere}) == []


def test_a_silent_server_holds_completion_for_a_second_only(tmp_path: Path) -> None:
    with silent_server() as url:
        began = time.monotonic()
        found = completed("run", "info", "", TINKER_BASE_URL=url, XDG_CACHE_HOME=str(tmp_path))
        took = time.monotonic() - began
    assert found == []
    assert took < 1.0 + 5.0  # for the process itself, on a busy machine
    assert list(tmp_path.iterdir()) == []


def test_the_script_of_a_shell_is_installed_where_the_shell_looks(tmp_path: Path) -> None:
    done = in_pipe("completion", "install", "fish", "-q", XDG_CONFIG_HOME=str(tmp_path))
    place = tmp_path / "fish" / "completions" / "tinkex.fish"
    assert (done.code, done.out) == (0, f"{place}\n")
    assert "_TINKEX_COMPLETE=fish_complete" in place.read_text()


# The help is fast.


def test_help_imports_no_http_library_and_no_generated_package() -> None:
    code = (
        "import sys; from tinkex.cli import main\n"
        "for args in (['--help'], ['checkpoint', '--help']):\n"
        "    try: main(args)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'httpx', 'aiohttp', 'tinkex_api', 'rich', 'attrs', 'anyio', 'numpy', 'asyncio'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

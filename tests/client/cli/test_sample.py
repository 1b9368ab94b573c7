"""`tinkex sample`, on a server that really samples."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

import tinkex.local.beside
from tinkex.cli import main
from tinkex.local import Server

PROMPT = "forty two is"


def sample(*options: str, input: str | None = None) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, ["sample", *options], input=input)


@pytest.fixture
def greedy(torch_server: Server) -> list[str]:
    """Options with which the same text is drawn each time."""
    return [f"--base-url={torch_server.base_url}", "--temperature=0", "--max-tokens=12"]


def test_the_text_is_the_data_whatever_its_form(greedy: list[str]) -> None:
    plain, several = sample(*greedy, PROMPT), sample(*greedy, "--json", "-n", "2", PROMPT)
    rows = json.loads(several.stdout)
    assert plain.exit_code == several.exit_code == 0
    assert [row["text"] + "\n" for row in rows] == [plain.stdout] * 2
    assert len(rows[0]["tokens"]) == len(rows[0]["logprobs"]) == 12
    assert (rows[0]["model"], rows[0]["stop_reason"]) == ("tinkex/tiny", "length")
    assert re.fullmatch(r"12 tokens, \d+ tokens/s, ended by length\n", plain.stderr)


def test_the_prompt_may_come_from_standard_input(greedy: list[str]) -> None:
    assert sample(*greedy, input=PROMPT).stdout == sample(*greedy, PROMPT).stdout
    empty = sample(*greedy, input="")
    assert (empty.exit_code, "is empty" in empty.stderr) == (2, True)


def test_a_stop_and_a_seed_have_an_effect(torch_server: Server) -> None:
    options = (f"--base-url={torch_server.base_url}", "--json=text", "--seed=3", PROMPT)
    whole = json.loads(sample(*options).stdout)[0]["text"]
    assert json.loads(sample(*options).stdout)[0]["text"] == whole
    letter = whole[len(whole) // 2]
    cut = json.loads(sample(*options, f"--stop={letter}").stdout)[0]["text"]
    assert cut.rstrip(letter) == whole.partition(letter)[0]


@pytest.mark.parametrize("limit", ["--top-k=1", "--top-p=0.000001"])
def test_of_the_likeliest_token_alone_the_text_is_the_greedy_one(
    torch_server: Server, greedy: list[str], limit: str
) -> None:
    hot = (f"--base-url={torch_server.base_url}", "--max-tokens=12", "--temperature=2", limit)
    assert sample(*hot, PROMPT).stdout == sample(*greedy, PROMPT).stdout


def test_tokens_are_written_as_they_come(torch_server: Server) -> None:
    command = [sys.executable, "-m", "tinkex", "sample", "--max-tokens=300"]
    with subprocess.Popen(
        [*command, f"--base-url={torch_server.base_url}", PROMPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        pieces = list(iter(lambda: os.read(process.stdout.fileno(), 1 << 16), b""))  # type: ignore[union-attr]
        assert process.wait(timeout=30) == 0
        said = process.stderr.read().decode()
    assert len(pieces) > 10
    assert "\x1b" not in said + b"".join(pieces).decode()


def test_logprobs_are_listed_in_a_pipe_and_colored_on_a_terminal(
    greedy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = sample(*greedy, PROMPT).stdout.rstrip("\n")
    lines = sample(*greedy, "--logprobs", PROMPT).stdout.splitlines()[:12]
    assert "".join(ast.literal_eval(line.split("\t")[2]) for line in lines) == text
    assert all(float(line.split("\t")[1]) <= 0 for line in lines)
    monkeypatch.setenv("TINKEX_FORCE_TTY", "300")
    monkeypatch.setenv("COLORTERM", "truecolor")
    colored = sample(*greedy, "--logprobs", "--color=always", PROMPT).stdout
    assert colored.count("\x1b[38;2;") == len(text)
    assert re.sub(r"\x1b\[[\d;]*m", "", colored).rstrip("\n") == text
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in sample(*greedy, "--logprobs", PROMPT).stdout


def test_one_prompt_follows_the_other(greedy: list[str]) -> None:
    first, second = sample(*greedy, "one"), sample(*greedy, "two")
    both = sample(*greedy, "--interactive", input="one\ntwo\n\n")
    assert both.stdout == first.stdout + second.stdout


def test_without_a_server_an_embedded_one_is_used_and_it_says_so(
    torch_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one that runs already, since another engine would take seconds to load
    monkeypatch.setattr(tinkex.local.beside, "start", lambda *args, **how: torch_server.base_url)
    done = sample("--max-tokens=2", PROMPT)
    assert done.exit_code == 0
    assert done.stderr.startswith("No server is set, so an embedded one samples on this machine")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinkex.doctor.machine.find_spec", lambda name: None)
    done = sample(PROMPT)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: the embedded server needs torch, transformers, ")
    assert done.stderr.endswith("hint: pip install torch 'tinkex[local]'\n")


def test_a_misspelt_model_gets_a_suggestion(torch_server: Server) -> None:
    done = sample(f"--base-url={torch_server.base_url}", "-m", "tinkex/tinny", PROMPT)
    assert done.exit_code != 0
    assert "the server does not list tinkex/tinny. Did you mean tinkex/tiny?" in done.stderr


def test_no_server_at_the_address_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = sample(f"--base-url=http://127.0.0.1:{port}", "-m", "tinker://a/b/c", PROMPT)
    assert done.exit_code == 5
    assert done.stderr.endswith("hint: tinkex doctor\n")


@pytest.fixture
def parrot(tmp_path: Path) -> str:
    """A chat template that puts the whole chat on one line, as module:function."""
    (tmp_path / "parrot.py").write_text(
        "def line(messages, *, add_generation_prompt, tools=None):\n"
        "    return '|'.join(each['role'][0] + each['content'] for each in messages)\n"
    )
    return f"{tmp_path}/parrot.py:line"


def test_a_message_is_sent_by_the_chat_template(greedy: list[str], parrot: str) -> None:
    asked = sample(*greedy, "--chat", "--system=short", "hi")
    assert asked.exit_code == 0, asked.output
    assert asked.stdout == sample(*greedy, "system: short\nuser: hi\nassistant:").stdout
    own = sample(*greedy, "--chat", "--chat-template", parrot, input="hi\n")
    assert own.stdout == sample(*greedy, "uhi").stdout
    alone = sample(*greedy, "--system=short", "hi")
    assert (alone.exit_code, "--system needs --chat" in alone.stderr) == (2, True)


@pytest.mark.parametrize("form", [(), ("-n", "2")], ids=["streamed", "whole"])
def test_the_messages_of_an_interactive_chat_follow_each_other(
    greedy: list[str], parrot: str, form: tuple[str, ...]
) -> None:
    options = (*greedy, "--chat", "--chat-template", parrot, "--interactive", *form)
    chat = sample(*options, input="hi\nand\n").stdout
    first = sample(*greedy, *form, "uhi").stdout
    answer = sample(*greedy, "--json=text", "uhi").stdout
    said = json.loads(answer)[0]["text"].strip()
    assert chat == first + sample(*greedy, *form, f"uhi|a{said}|uand").stdout

"""`tinkex doctor`: its exit codes and forms of output, before servers on real sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import click.testing
import pytest

from tinkex.cli import main
from tinkex.doctor.examination import PROBES
from tinkex.local import Server

KEY = "tml-this-is-a-secret-abcd"


def doctor(*options: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, ["doctor", *options])


def nowhere() -> str:
    """Returns the address of a server that has ended."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_in_a_pipe_it_writes_a_line_for_each_probe(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tinkex", "doctor", f"--base-url={server.base_url}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {row[0]: row[1] for row in rows[:-1]} == dict.fromkeys(PROBES, "ok")
    assert rows[-1] == ["verdict", "", "all is well"]
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


def test_findings_and_no_server_have_exit_codes_of_their_own(server: Server) -> None:
    wrong_path, url = doctor(f"--base-url={server.base_url}/api/v1"), nowhere()
    unreachable = doctor(f"--base-url={url}")
    assert (wrong_path.exit_code, unreachable.exit_code) == (7, 5)
    assert f"export TINKER_BASE_URL={server.base_url}" in wrong_path.stdout
    assert f"tinkex serve --port {url.rpartition(':')[2]}" in unreachable.stdout


def test_json_is_one_object_on_stdout() -> None:
    done = doctor(f"--base-url={nowhere()}", "--json")
    value = json.loads(done.stdout)
    assert (value["outcome"], done.exit_code) == ("unreachable", 5)
    assert [finding["probe"] for finding in value["findings"]] == list(PROBES)
    assert doctor(f"--base-url={nowhere()}", "--json=outcome").stdout == (
        '{"outcome": "unreachable"}\n'
    )


def test_a_report_is_markdown_without_keys(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    done = doctor(f"--base-url={server.base_url}", "--report")
    assert done.stdout.startswith("### tinkex doctor\n\n| probe | | finding |\n")
    assert "| key | ok | tml-…abcd (from TINKER_API_KEY), accepted |" in done.stdout
    assert "secret" not in done.output


def test_on_a_terminal_the_fix_stands_below_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_FORCE_TTY", "100")
    url = nowhere()
    lines = doctor(f"--base-url={url}", "--color=never").stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("✗ network"))
    assert lines[at + 1 : at + 3] == [
        "           No server listens on this port of this machine.",
        f"           → tinkex serve --port {url.rpartition(':')[2]}",
    ]
    assert lines[-1].startswith("the server cannot be reached: ")


def test_the_hosted_service_is_not_sampled_where_nobody_can_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("HTTPS_PROXY", nowhere())  # so that nothing is sent there
    done = doctor("--json")
    sample = json.loads(done.stdout)["findings"][-1]
    assert (sample["level"], sample["text"]) == ("skipped", "not asked for")
    assert sample["command"] == "tinkex doctor --sample"

"""The doctor, before servers on real sockets: healthy ones, and each way in which one can fail."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

import tinkex.local
from tests.support.answering_server import NO_ROUTE, Answer, Call, answering, as_json
from tests.support.fault_server import answer, fault_server
from tests.support.tls import Authority, small_proxy
from tinkex.doctor.examination import PROBES, Options, examine
from tinkex.doctor.finding import Finding, verdict
from tinkex.doctor.report import as_json as report_as_json
from tinkex.doctor.report import as_markdown
from tinkex.local import Server

KEY = "tml-this-is-a-secret-abcd"
Findings = dict[str, Finding]


def examined(base_url: str | None, *, measure_repeats: bool = False) -> Findings:
    """Makes all probes; returns the findings by the name of the probe."""

    async def main() -> Findings:
        options = Options(base_url=base_url, measure_repeats=measure_repeats)
        return {finding.probe: finding async for finding in examine(options)}

    return asyncio.run(main())


def levels(findings: Findings) -> dict[str, list[str]]:
    """Returns the names of the probes by level, without those that are well."""
    wrong = {finding.level for finding in findings.values()} - {"ok"}
    return {
        level: [name for name in PROBES if findings[name].level == level] for level in sorted(wrong)
    }


def test_a_healthy_server_is_well(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    found = examined(server.base_url)
    assert sorted(found) == sorted(PROBES)
    assert levels(found) == {}
    assert verdict(found.values()).outcome == "well"
    assert found["key"].text == "tml-…abcd (from TINKER_API_KEY), accepted"
    assert f"base_url={server.base_url} (argument)" in found["config"].text
    assert "127.0.0.1:" in found["network"].text
    assert found["server"].text.startswith("tinkex: the embedded server of tinkex (uvicorn); ")
    assert "batches as protobuf" in found["server"].text
    assert found["routes"].text == "has 40 of 40 optional calls"
    assert found["repeats"].text.startswith("repeats: ")
    assert found["clock"].text == "the clocks agree within a second"
    assert found["sample"].text.startswith("4 tokens of fake/base in ")


def test_settings_are_named_with_their_sources_and_slips_with_what_is_meant(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", server.base_url)
    monkeypatch.setenv("TINKEX_TIMEOUT", "20")
    monkeypatch.setenv("TINKEX_DEFAULT_HEADERS", f"x-secret-token={KEY}")
    monkeypatch.setenv("TINKEX_TIMEOUTS", "3")
    finding = examined(None)["config"]
    assert f"base_url={server.base_url} (TINKER_BASE_URL)" in finding.text
    assert "timeout=20.0 (TINKEX_TIMEOUT)" in finding.text
    assert "x-secret-token" in finding.text
    assert KEY not in finding.text
    assert (finding.level, finding.cause, finding.command) == (
        "warn",
        "TINKEX_TIMEOUTS is set and has no effect: did you mean TINKEX_TIMEOUT?",
        'export TINKEX_TIMEOUT="$TINKEX_TIMEOUTS"; unset TINKEX_TIMEOUTS',
    )


def test_wrong_settings_end_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_TIMEOUT", "soon")
    found = examined("http://127.0.0.1:9")
    assert found["config"].text == "TINKEX_TIMEOUT is 'soon', not a number"
    assert levels(found)["fail"] == ["config"]
    assert verdict(found.values()).outcome == "findings"


def test_no_key_for_the_hosted_service_is_found_before_anything_is_sent() -> None:
    found = examined(None)
    assert (found["key"].level, found["key"].text) == ("fail", "no API key for the hosted service")
    assert found["key"].command == "export TINKER_API_KEY=tml-…"
    assert {found[name].level for name in ("server", "routes", "repeats", "sample")} == {"skipped"}


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    found = examined(f"http://127.0.0.1:{port}")
    assert time.monotonic() - began < 3
    finding = found["network"]
    assert finding.text == f"127.0.0.1:{port}: connection refused"
    assert finding.command == f"tinkex serve --port {port}"
    assert levels(found) == {
        "fail": ["network"],
        "skipped": ["key", "server", "routes", "repeats", "clock", "sample"],
    }
    assert verdict(found.values()).outcome == "unreachable"


def test_a_name_that_does_not_exist() -> None:
    found = examined("http://no-such-host.invalid:8765")
    assert "this name is not known" in found["network"].text
    assert found["network"].command == "getent hosts no-such-host.invalid"
    assert verdict(found.values()).outcome == "unreachable"


def test_the_port_of_another_server() -> None:
    def another(call: Call) -> Answer:
        return NO_ROUTE

    with answering(another) as there:
        found = examined(there.base_url)
    assert found["server"].text == f"{there.base_url} has none of the calls of a Tinker server"
    assert found["server"].command == "export TINKER_BASE_URL=http://HOST:PORT"
    assert levels(found) == {
        "fail": ["server"],
        "skipped": ["key", "routes", "repeats", "sample"],
    }
    assert verdict(found.values()).outcome == "findings"


@pytest.mark.parametrize("path", ["/api/v1", "/services/prod"])
def test_a_wrong_path_names_the_right_one(server: Server, path: str) -> None:
    found = examined(server.base_url + path)
    assert found["server"].cause == f"The Tinker API is at {server.base_url}."
    assert found["server"].command == f"export TINKER_BASE_URL={server.base_url}"
    assert verdict(found.values()).outcome == "findings"


def test_a_server_that_accepts_and_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        found = examined(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert 2.9 < time.monotonic() - began < 8
    assert found["network"].level == "ok"
    assert "gave no answer" in found["server"].text
    assert found["server"].cause is not None
    assert found["server"].cause.startswith("It accepts connections")
    assert verdict(found.values()).outcome == "unreachable"


@pytest.mark.parametrize(
    ("status", "meaning"), [(401, "does not know this key"), (403, "does not permit it")]
)
def test_a_refused_key(monkeypatch: pytest.MonkeyPatch, status: int, meaning: str) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)

    def refuse(call: Call) -> Answer:
        if call.path.endswith("/healthz"):
            return as_json({"status": "ok"})
        return as_json({"detail": "no entry"}, status)

    with answering(refuse) as there:
        found = examined(there.base_url)
    finding = found["key"]
    assert finding.text == f"tml-…abcd (from TINKER_API_KEY), refused: {status} no entry"
    assert meaning in str(finding.cause)
    assert levels(found) == {
        "fail": ["key"],
        "skipped": ["server", "routes", "repeats", "sample"],
    }
    assert verdict(found.values()).outcome == "findings"


def test_a_server_that_requires_a_key_and_gets_none() -> None:
    with tinkex.local.serve(engine="fake", api_key=KEY) as server:
        found = examined(server.base_url)
    assert found["key"].text.startswith("none is set, refused: 401 ")


def over_tls(context: ssl.SSLContext) -> Findings:
    async def main() -> Findings:
        async def fault(path: str, writer: asyncio.StreamWriter) -> None:
            await answer(writer, b"{}", "404 Not Found")

        async with fault_server(fault, tls=context) as url:
            named = url.replace("127.0.0.1", "localhost")
            return await asyncio.to_thread(examined, named)

    return asyncio.run(main())


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    context = Authority(tmp_path).server_context("localhost", self_signed=True)
    found = over_tls(context)
    assert "its certificate is not trusted: self-signed certificate" in found["network"].text
    assert str(found["network"].command).startswith("openssl s_client -connect localhost:")
    assert verdict(found.values()).outcome == "unreachable"


def test_a_trusted_certificate_is_told_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context("localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    found = over_tls(context)
    assert found["network"].level == "ok"
    assert "TLSv1.3 " in found["network"].text
    assert f"SSL_CERT_FILE={authority.file}" in found["proxy"].text


def test_https_where_the_server_speaks_http(server: Server) -> None:
    found = examined(server.base_url.replace("http:", "https:"))
    assert "does not speak TLS" in found["network"].text
    assert found["network"].command == f"export TINKER_BASE_URL={server.base_url}"


def test_certificates_that_do_not_exist(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    finding = examined(server.base_url)["proxy"]
    assert (finding.level, finding.command) == ("fail", "unset SSL_CERT_FILE")
    assert "no certificates can be read from SSL_CERT_FILE='/nowhere.pem'" in finding.text


@pytest.mark.parametrize("status", [200, 403])
def test_a_login_page_of_the_network(status: int) -> None:
    page = b"<!DOCTYPE html><html><body>Please log in to the network</body></html>"

    def log_in(call: Call) -> Answer:
        return Answer(status, page, {"Content-Type": "text/html"})

    with answering(log_in) as there:
        found = examined(there.base_url)
    assert "web page" in found["server"].text
    assert "login page of the network" in str(found["server"].cause)
    assert verdict(found.values()).outcome == "findings"


def test_a_proxy_is_named_and_so_is_one_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with tinkex.local.serve(engine="fake", allow_hosts=["tinker.example"]) as server:
        port = server.base_url.rpartition(":")[2]
        with small_proxy() as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("http://", "http://me:secret@"))
            found = examined(f"http://tinker.example:{port}")
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    gone = examined(f"http://tinker.example:{port}")
    shown = proxy.url.replace("http://", "http://(hidden)@")
    assert found["proxy"].text.startswith(f"through {shown} (HTTP_PROXY)")
    assert found["network"].text.endswith(f"the server is behind the proxy {shown} (HTTP_PROXY)")
    assert "secret" not in as_markdown(list(found.values()))
    assert levels(found) == {}
    assert "cannot be reached: Connection refused" in gone["network"].text
    assert gone["network"].command == "unset HTTP_PROXY"


@pytest.mark.parametrize(
    ("profile", "wire", "repeats"),
    [
        ("skyrl-0.3", "batches as json, else protobuf, results as json", "ignores"),
        ("skyrl-0.4", "batches as protobuf, else json, results as protobuf", "unknown"),
    ],
)
def test_the_wire_and_the_repeats_of_other_servers(profile: str, wire: str, repeats: str) -> None:
    with tinkex.local.serve(engine="fake", profile=profile) as server:
        found = examined(server.base_url)
    assert found["server"].text.startswith(profile)
    assert wire in found["server"].text
    assert "; lacks " in found["routes"].text
    assert found["repeats"].text.startswith(f"{repeats}: ")
    if repeats == "unknown":
        assert found["repeats"].command == "tinkex doctor --probe"
    assert found["sample"].level == "ok"


def test_repeats_are_measured_on_request() -> None:
    with tinkex.local.serve(engine="fake", profile="skyrl-0.4") as server:
        found = examined(server.base_url, measure_repeats=True)
    assert found["repeats"].text.startswith("repeats: ")
    assert found["repeats"].text.endswith("(probed)")


def test_a_call_that_is_unexpectedly_missing(server: Server) -> None:
    with passing_on(server, lambda call: NO_ROUTE if call.path.endswith("/sessions") else None) as (
        url
    ):
        finding = examined(url)["routes"]
    assert finding.level == "warn"
    assert finding.text == "has 39 of 40 optional calls; lacks list_sessions"
    assert finding.command == f"curl -i {url}/api/v1/sessions"


@pytest.mark.parametrize(("ahead", "words"), [(-300, "ahead of"), (300, "behind")])
def test_clocks_that_differ(server: Server, ahead: int, words: str) -> None:
    def late(call: Call) -> Answer | None:
        if not call.path.endswith("/healthz"):
            return None
        date = formatdate(time.time() + ahead, usegmt=True)
        return as_json({"status": "ok"}, headers={"Date": date})

    with passing_on(server, late) as url:
        finding = examined(url)["clock"]
    assert finding.level == "warn"
    assert words in finding.text
    assert abs(int(finding.text.split()[3]) - 300) < 3
    assert finding.command is not None


def test_a_sample_that_fails(server: Server) -> None:
    with passing_on(
        server,
        lambda call: (
            as_json({"detail": "out of memory"}, 500)
            if call.path.endswith("/create_sampling_session")
            else None
        ),
    ) as url:
        finding = examined(url)["sample"]
    assert (finding.level, finding.text) == ("fail", "fake/base: 500 out of memory")
    assert finding.command == 'tinkex sample -m fake/base "Once upon a time"'


def test_reports_are_in_order_and_hold_no_key(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    found = list(reversed(examined(server.base_url).values()))
    value = report_as_json(found)
    assert [finding["probe"] for finding in value["findings"]] == list(PROBES)
    assert (value["verdict"], value["outcome"]) == ("all is well", "well")
    rows = [line for line in as_markdown(found).splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == list(PROBES)
    assert "secret" not in str(value) + as_markdown(found)


@contextmanager
def passing_on(server: Server, instead: Callable[[Call], Answer | None]) -> Iterator[str]:
    """Serves what the server answers, but for calls that `instead` answers."""
    import httpx

    client = httpx.Client(base_url=server.base_url)
    lock = threading.Lock()

    def pass_on(call: Call) -> Answer:
        given = instead(call)
        if given is not None:
            return given
        kept = {n: v for n, v in call.headers.items() if n not in ("host", "content-length")}
        with lock:
            told = client.request(
                call.method, call.path, params=dict(call.query), headers=kept, content=call.body
            )
        return Answer(
            told.status_code, told.content, {"Content-Type": told.headers["content-type"]}
        )

    with client, answering(pass_on) as there:
        yield there.base_url


def test_a_key_that_others_can_read_is_warned_of(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    with small_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("TINKEX_DEFAULT_HEADERS", f"Host={server.base_url[7:]}")
        port = server.base_url.rpartition(":")[2]
        found = examined(f"http://tinker.example:{port}")
    assert found["key"].level == "warn"
    assert found["key"].command == f"export TINKER_BASE_URL=https://tinker.example:{port}"

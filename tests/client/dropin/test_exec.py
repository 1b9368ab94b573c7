"""`tinkex exec` and `python -m tinkex.dropin`: the program takes the place of the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.programs import SECONDS, outcome_of, written
from tests.support.wait_until import wait_until
from tinkex.dropin.command import resolved
from tinkex.errors import ConfigError
from tinkex.local.beside import start

EXEC = (sys.executable, "-m", "tinkex.cli", "exec")
PROGRAM = """
    import os, sys
    import tinker
    print(tinker.__spec__.origin, sys.argv[1:], os.environ.get("TINKER_BASE_URL"))
    sys.exit(7)
"""


@pytest.mark.parametrize(
    "before",
    [
        ["{script}"],
        ["--", "{script}"],
        ["--", "python", "{script}"],
        ["python", "-m", "program"],
        ["-m", "program"],
        ["--base-url", "http://127.0.0.1:9", "{script}"],
    ],
)
def test_a_program_runs_with_its_arguments_and_ends_with_its_status(
    before: list[str], tmp_path: Path
) -> None:
    script = written(tmp_path, "program.py", PROGRAM)
    command = [part.format(script=script) for part in before]
    done = outcome_of([*EXEC, *command, "a b", "--base-url", "-x"], folder=tmp_path)
    url = "http://127.0.0.1:9" if "--base-url" in before else None
    assert done.stdout == f"tinkex.dropin ['a b', '--base-url', '-x'] {url}\n", done.stderr
    assert done.returncode == 7


@pytest.mark.parametrize("before", [["{script}"], ["-m", "program"]])
def test_the_module_runs_a_program_like_the_command(before: list[str], tmp_path: Path) -> None:
    script = written(tmp_path, "program.py", PROGRAM)
    command = [part.format(script=script) for part in before]
    done = outcome_of([sys.executable, "-m", "tinkex.dropin", *command, "a"], folder=tmp_path)
    assert (done.stdout, done.returncode) == ("tinkex.dropin ['a'] None\n", 7)


def test_a_shell_and_what_it_starts(tmp_path: Path) -> None:
    written(tmp_path, "program.py", PROGRAM)
    done = outcome_of(
        [*EXEC, "sh", "-c", f"{sys.executable} program.py b; exit 3"], folder=tmp_path
    )
    assert (done.stdout, done.returncode) == ("tinkex.dropin ['b'] None\n", 3)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["no-such-command"], "there is no command 'no-such-command'"),
        (["no-such-script.py"], "no-such-script.py"),
        ([], "Missing argument"),
        (["--model", "tinkex/tiny", "x.py"], "--base-url local"),
    ],
)
def test_a_program_that_is_not_there(command: list[str], said: str, tmp_path: Path) -> None:
    done = outcome_of([*EXEC, *command], folder=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr


def test_no_program_for_the_module() -> None:
    done = outcome_of([sys.executable, "-m", "tinkex.dropin"])
    assert done.returncode == 1
    assert done.stderr.startswith("python -m tinkex.dropin: there is no program to run")


def test_a_command_is_looked_for_beside_the_interpreter_first(tmp_path: Path) -> None:
    own = Path(sys.executable).parent
    other = written(tmp_path, "python", "#!/bin/sh\n")
    other.chmod(0o755)
    environment = {"PATH": str(tmp_path)}
    assert resolved(["python", "a.py"], environment) == [str(own / "python"), "a.py"]
    assert resolved([str(other), "a"], environment) == [str(other), "a"]
    assert resolved(["a.py", "b"], environment) == [sys.executable, "a.py", "b"]
    with pytest.raises(ConfigError, match="no command 'tool'"):
        resolved(["tool"], environment)


STARTS_THE_COMMAND = """
    import subprocess
    from tinker.cli.__main__ import cli
    done = subprocess.run(["tinker", "checkpoint", "download", "--help"], capture_output=True)
    print(cli.name, done.stdout.decode().split("\\n")[0], done.returncode)
"""


def test_a_program_that_starts_the_command_of_the_official_sdk(tmp_path: Path) -> None:
    script = written(tmp_path, "program.py", STARTS_THE_COMMAND)
    done = outcome_of([*EXEC, str(script)], folder=tmp_path)
    assert done.stdout == "tinkex Usage: tinkex checkpoint download [OPTIONS] PATH 0\n", done.stderr
    listed = outcome_of([*EXEC, "--", "tinker", "run", "list", "--help"], folder=tmp_path)
    assert listed.stdout.startswith("Usage: tinkex run list"), listed.stderr


WAITS = """
    import signal, sys, time
    import tinker
    heard = []
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), lambda number, frame: heard.append(number))
    open(sys.argv[1], "w").close()
    end = time.monotonic() + 60
    while not heard and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)  # for a second one, which must not come
    print(*[signal.Signals(number).name for number in heard])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("to_group", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_program_once(
    number: signal.Signals, to_group: bool, tmp_path: Path
) -> None:
    """Ctrl-C in a terminal signals a group of processes; `kill` signals one."""
    script, ready = written(tmp_path, "program.py", WAITS), tmp_path / "ready"
    process = subprocess.Popen(
        [*EXEC, script, ready], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        try:
            wait_until(ready.exists, SECONDS)
            (os.killpg if to_group else os.kill)(process.pid, number)
            said, _ = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert said.split() == [number.name]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_program_that_a_signal_ends(tmp_path: Path) -> None:
    script = written(tmp_path, "program.py", "import os, signal; os.kill(os.getpid(), 9)")
    assert outcome_of([*EXEC, script]).returncode == -signal.SIGKILL


def test_help_is_given_without_the_packages_of_the_clients(tmp_path: Path) -> None:
    code = (
        "import sys; from tinkex.cli import main; "
        "main(['exec', '--help'], standalone_mode=False); "
        "assert not {'httpx', 'numpy', 'tinkex.dropin'} & sys.modules.keys()"
    )
    assert outcome_of([sys.executable, "-c", code]).returncode == 0


TRAINS = """
    import multiprocessing, os, sys
    import tinker
    from tinker import types


    def in_child(sampler, tokens):
        service = tinker.ServiceClient()  # finds the same server
        models = service.get_server_capabilities().supported_models
        params = types.SamplingParams(max_tokens=3, temperature=0.0)
        response = sampler.sample(types.ModelInput.from_ints(tokens), 1, params).result()
        return models[0].model_name, response.sequences[0].tokens


    def main():
        assert os.environ["TINKER_API_KEY"]
        try:
            os.waitpid(-1, os.WNOHANG)
        except (AttributeError, ChildProcessError):  # of Windows; of a process without children
            pass
        else:
            raise AssertionError("the server is a child of the program, which would wait for it")
        service = tinker.ServiceClient()
        trainer = service.create_lora_training_client(base_model="tinkex/tiny", rank=8)
        tokenizer = trainer.get_tokenizer()
        tokens = tokenizer.encode("forty two is 42\\n", add_special_tokens=False)
        datum = types.Datum(
            model_input=types.ModelInput.from_ints(tokens=tokens[:-1]),
            loss_fn_inputs=dict(weights=[1.0] * (len(tokens) - 1), target_tokens=tokens[1:]),
        )
        before = trainer.save_weights_and_get_sampling_client(name="before")
        losses = []
        for _ in range(8):
            backward = trainer.forward_backward([datum], "cross_entropy")
            step = trainer.optim_step(types.AdamParams(learning_rate=5e-3))
            losses.append(backward.result().metrics["loss:sum"])
            step.result()
        after = trainer.save_weights_and_get_sampling_client(name="after").result()
        prompt = types.ModelInput.from_ints(tokens)
        first, last = (client.compute_logprobs(prompt).result() for client in (before, after))
        assert max(abs(a - b) for a, b in zip(first[1:], last[1:])) > 0.1, (first, last)
        assert losses[-1] < losses[0] / 2, losses
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            name, sampled = pool.apply(in_child, (after, tokens[:8]))
        assert name == "tinkex/tiny" and len(sampled) == 3
        print(os.environ["TINKER_BASE_URL"])


    if __name__ == "__main__":
        main()
"""


@pytest.mark.slow
def test_a_program_trains_with_no_server_and_no_key(tmp_path: Path) -> None:
    """It is written for the official SDK. Its child samples on the same server, which is no child
    of the program and ends with it.
    """
    script = written(tmp_path, "program.py", TRAINS)
    done = outcome_of([*EXEC, "--base-url", "local", script])
    assert done.returncode == 0, done.stderr
    url = done.stdout.strip()
    assert url.startswith("http://127.0.0.1:")
    assert f"{url}. It ends with the program, and its checkpoints with it" in done.stderr
    wait_until(lambda: not _answers(url), SECONDS)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0).is_success
    except httpx.TransportError:
        return False


def test_a_server_that_cannot_start_is_told(tmp_path: Path) -> None:
    script = written(tmp_path, "program.py", "print('ran')")
    done = outcome_of([*EXEC, "--base-url", "local", "--model", "no/such-folder", script])
    assert done.returncode == 1
    assert "the embedded server could not be started" in done.stderr
    assert "no/such-folder" in done.stderr
    assert done.stdout == ""


HANGS = """
    import os, time
    with open({pids!r}, "a") as file:
        print(os.getpid(), file=file)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes are asked by signals")
def test_the_wait_for_a_server_that_hangs_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    written(tmp_path, "uvicorn.py", HANGS.format(pids=str(pids)))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(ConfigError) as raised:
        start(["tinkex/tiny"], within=10)
    said = "after 10 s it was still importing its packages"
    assert said in str(raised.value)
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not _runs(pid))


def test_a_server_that_ends_before_it_serves_is_told_with_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "uvicorn.py", "import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(ConfigError, match="it ended while importing its packages"):
        start(["tinkex/tiny"])


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")

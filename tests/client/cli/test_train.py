"""`tinkex train`, `tinkex eval` and `tinkex data check`: their examples, forms and errors."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

import tinkex.local.beside
from tinkex import RestClient, ServiceClient
from tinkex.cli import main
from tinkex.cli.command import Command
from tinkex.local import Server
from tinkex_server.engine.interface import Engine

NAMES = ("data check", "train sft", "train rl", "train dpo", "train distill", "eval")
SHORT = {
    "train sft": "--steps 1 --batch-size 1 --rank 4",
    "train rl": "--steps 1 --batch-size 1 --rank 4 --group-size 2 --max-tokens 2",
    "train dpo": "--steps 1 --batch-size 1 --rank 4",
    "train distill": "--steps 1 --batch-size 1 --rank 4 --group-size 1 --max-tokens 2",
}
"""Flags that make an example short; a later flag goes before an earlier one."""

NUMBERS = [{"prompt": "two =", "completion": " 2"}, {"prompt": "six =", "completion": " 6"}]
CHAT = {"messages": [{"role": "user", "content": "red?"}, {"role": "assistant", "content": "stop"}]}
FILES: dict[str, list[Any]] = {
    **dict.fromkeys(("numbers.jsonl", "held_out.jsonl", "test.jsonl"), NUMBERS),
    "chats.jsonl": [CHAT],
    "prompts.jsonl": [{"prompt": "a"}],
    "pairs.jsonl": [{"prompt": "a", "chosen": "b", "rejected": "c"}],
}


def command_named(name: str) -> Command:
    found = import_module(f"tinkex.cli.{name.replace(' ', '.')}").command
    assert isinstance(found, Command)
    return found


EXAMPLES = [(name, example) for name in NAMES for example in command_named(name).examples]


def run(line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line)[1:], catch_exceptions=False)


@pytest.fixture(scope="module")
def paths(torch_server: Server) -> dict[str, str]:
    """A state of training and weights for sampling."""
    with ServiceClient(base_url=torch_server.base_url, api_key="tml-test") as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=4)
        return {
            "tinker://RUN/weights/NAME": trainer.save_state("state").result().path,
            "tinker://RUN/sampler_weights/NAME": trainer.save_weights_for_sampler("w")
            .result()
            .path,
        }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_server: Server) -> Path:
    """A folder with the files that the examples name, and the server in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINKER_BASE_URL", torch_server.base_url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    # a module of this folder is imported, and forgotten at the end
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "rewards", raising=False)
    for name, rows in FILES.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text(
        "def vowels(row, answer):\n    return sum(letter in 'aeiou' for letter in answer)\n"
    )
    (tmp_path / "sft.toml").write_text('data = "numbers.jsonl"\nlearning_rate = 0.1\n')
    return tmp_path


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_an_example_runs(name: str, example: str, here: Path, paths: dict[str, str]) -> None:
    for placeholder, path in paths.items():
        example = example.replace(placeholder, path)
    if "--resume" in example:
        out = example.split()[-1]
        assert run(f"tinkex train sft sft.toml --out {out} {SHORT[name]}").exit_code == 0
        done = run(f"{example} --steps 2")
    else:
        done = run(f"{example} {SHORT.get(name, '')}")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert done.stdout


def test_after_a_chat_the_model_is_asked_by_its_template(here: Path) -> None:
    chat = [("system", "Be short."), ("user", "one?"), ("assistant", "1")]
    messages = [{"role": role, "content": content} for role, content in chat]
    Path("chat.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    done = run(f"tinkex train sft --data chat.jsonl {SHORT['train sft']}")
    [hint] = re.findall("^hint: (tinkex sample .*)$", done.stderr, re.MULTILINE)
    assert hint.endswith(" --chat --system 'Be short.' 'one?'")
    assert run(f"{hint} --max-tokens 2").exit_code == 0


def test_the_sessions_of_commands_are_told_apart_by_their_names(here: Path) -> None:
    line = f"tinkex train sft --data numbers.jsonl --out runs/first {SHORT['train sft']}"
    assert run(line).exit_code == 0
    assert run("tinkex train sft --resume runs/first --steps 2").exit_code == 0
    assert run("tinkex eval --data numbers.jsonl").exit_code == 0
    done = run("tinkex session list --limit 3 --json=name")
    names = [session["name"] for session in json.loads(done.stdout)]
    assert names == ["tinkex eval", *["tinkex train sft: first"] * 2]


def test_a_run_that_takes_no_step_leaves_no_folder(here: Path) -> None:
    Path("bad.jsonl").write_text("nonsense\n")
    assert run("tinkex train sft --data bad.jsonl").exit_code == 2
    assert list(Path("runs").iterdir()) == []
    Path("kept").mkdir()
    Path("kept/notes.txt").touch()
    assert run("tinkex train sft --data bad.jsonl --out kept").exit_code == 2
    assert [file.name for file in Path("kept").iterdir()] == ["notes.txt"]


def test_a_run_is_resumed_by_its_own_recipe(here: Path) -> None:
    assert run(f"tinkex train sft sft.toml --out run {SHORT['train sft']}").exit_code == 0
    done = run("tinkex train rl --resume run")
    assert (done.exit_code, "is one of sft, not of rl" in done.stderr) == (2, True)
    assert "`tinkex train sft --resume run` goes on with it" in done.stderr


def test_a_run_is_a_record_for_a_pipe_json_or_a_path(here: Path) -> None:
    line = f"tinkex train sft sft.toml --steps 2 {SHORT['train sft'].replace('--steps 1', '')}"
    found = json.loads(run(f"{line} --json").stdout)
    assert list(found) == list(command_named("train sft").fields)
    assert (found["steps"], found["total_steps"], found["interrupted"]) == (2, 2, False)
    lines = (Path(found["folder"]) / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert [step["loss"] for step in steps] == [found["first"], found["last"]]
    assert found["best"] == min(found["first"], found["last"])
    # the flag goes before the file
    settings = json.loads((Path(found["folder"]) / "run.json").read_text())["config"]
    assert (settings["steps"], settings["learning_rate"], settings["batch_size"]) == (2, 0.1, 1)
    done = run(f"{line} --out again -q")
    assert re.fullmatch(r"tinker://\S+/sampler_weights/final\n", done.stdout)
    assert done.stderr == ""


def test_a_person_gets_a_card_with_the_next_two_commands(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKEX_FORCE_TTY", "100")
    done = run(f"tinkex train sft sft.toml --eval-data test.jsonl {SHORT['train sft']}")
    card = done.stdout
    assert card.startswith("sft ended after 1 of 1 steps, ")
    assert re.search(r"^  loss +\S+  first \S+, best \S+ \(step 1\), last \S+$", card, re.M)
    assert re.search(r"^  eval_loss +▁  first", card, re.M)
    path = re.search(r"^  weights +(\S+)$", card, re.M)
    assert path is not None
    hints = re.findall(r"hint: (.*)", re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", done.stderr))
    assert hints == [
        f"tinkex sample -m {path[1]} 'two ='",
        f"tinkex checkpoint download {path[1]}",
    ]


def test_the_page_of_a_run_has_its_reward(here: Path, torch_server: Server) -> None:
    short = "--batch-size 1 --rank 4 --group-size 4 --max-tokens 3"
    line = f"tinkex train rl --data prompts.jsonl --reward rewards:vowels --steps 2 {short} --json"
    found = json.loads(run(line).stdout)
    name = found["state_path"].split("/")[2]
    with RestClient(base_url=torch_server.base_url, api_key="tml-test") as rest:
        steps = rest.list_steps(name).steps
    assert [step.metrics["reward"] for step in steps] == pytest.approx(
        [found["first"], found["last"]]
    )
    page = httpx.get(f"{torch_server.base_url}/runs/{name}?metric=reward").text
    assert "reward by step. From" in page


@pytest.mark.parametrize(("profile", "saved"), [("hatchery", "path"), ("xorl", None)])
def test_the_card_proposes_what_the_server_can_do(
    here: Path,
    torch_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    profile: str,
    saved: str | None,
) -> None:
    """One server samples only from states of training, and the other not at all."""
    monkeypatch.setenv("TINKEX_DIALECT", profile)
    with tinkex.local.serve(engine=torch_engine, profile=profile, hold=0.5) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.base_url)
        done = run(f"tinkex train sft sft.toml {SHORT['train sft']} --out run")
        hints = re.findall(r"hint: (.*)", done.stderr)
        assert [hint.split()[1] for hint in hints] == ["sample"] * bool(saved) + ["checkpoint"]
        if saved:
            state = json.loads((here / "run" / "state.json").read_text())
            assert hints[0].split()[3] == state[saved]
            sampled = run(f"{hints[0]} --max-tokens 2 --json")
            assert sampled.exit_code == 0, sampled.output
            options = "--base-model tinkex/tiny --data prompts.jsonl --score rewards:vowels"
            scored = run(f"tinkex eval -m {state[saved]} {options} --max-tokens 2 --json")
            assert scored.exit_code == 0, scored.output


def test_eval_gives_loss_and_score(here: Path, paths: dict[str, str]) -> None:
    line = "tinkex eval --data test.jsonl --score rewards:vowels --max-tokens 2 --json -m "
    base = json.loads(run(f"{line} tinkex/tiny").stdout)
    assert list(base) == list(command_named("eval").fields)
    assert base["loss_tokens"] == 6  # " 2", " 6", and their ends
    assert (base["examples"], base["answers"]) == (2, 2)
    # an adapter that was not trained changes nothing
    fresh = json.loads(run(line + paths["tinker://RUN/sampler_weights/NAME"]).stdout)
    assert fresh["loss"] == pytest.approx(base["loss"], abs=1e-4)
    assert fresh["score"] == base["score"]


def test_eval_of_prompts_alone_wants_a_function(here: Path) -> None:
    done = run("tinkex eval --data prompts.jsonl")
    assert done.exit_code == 2
    assert "prompts.jsonl has prompts without answers" in done.stderr


def test_data_check_ends_with_7_and_names_the_lines(here: Path) -> None:
    Path("bad.jsonl").write_text('{"text": "abcdef"}\nnonsense\n{"text": ""}\n{"text": "abcdef"}\n')
    done = run("tinkex data check bad.jsonl --max-length 4 --json")
    found = json.loads(done.stdout)
    assert done.exit_code == 7
    assert [error["line"] for error in found["errors"]] == [2]
    assert found["empty"] == [{"line": 3, "reason": "its text is empty"}]
    assert found["duplicates"] == [{"line": 4, "of": 1}]
    assert found["cut"] == [{"line": 1, "tokens": 3}, {"line": 4, "tokens": 3}]


def test_data_check_in_a_pipe_has_a_line_for_each_finding(here: Path) -> None:
    Path("bad.jsonl").write_text('{"text": "abcdef"}\nnonsense\n' + '{"text": "abcdef"}\n' * 13)
    done = run("tinkex data check bad.jsonl")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert ["duplicates", "13"] in lines
    assert ["errors", "1"] in lines
    found = [line[1:] for line in lines if line[0] == "line"]
    assert [line[:2] for line in found] == [["2", "errors"]] + [
        [str(line), "duplicates"] for line in range(3, 13)
    ]
    assert {line[2] for line in found[1:]} == {"1"}
    assert "and 3 more lines of duplicates; --json lists all" in done.stderr
    whole = json.loads(run("tinkex data check bad.jsonl --json=duplicates").stdout)
    assert len(whole["duplicates"]) == 13


def test_data_check_shows_what_is_trained_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_FORCE_TTY", "100")
    done = run("tinkex data check numbers.jsonl --color never")
    assert "\n  two =« 2<|endoftext|>»\n" in done.stdout
    assert "Nothing wrong was found.\n" in done.stdout
    colored = run("tinkex data check numbers.jsonl --color always").stdout
    assert "two =\x1b[32m\x1b[1m 2<|endoftext|>\x1b[0m" in colored


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tinkex train sft", "the setting 'data' is missing"),
        ("tinkex train sft --data numbers.jsonl --steps 0", "steps must be 1 or more, found 0"),
        ("tinkex train sft misspelt.toml", "unknown setting 'learnin_rate'"),
        ("tinkex train sft wrong.toml", "'steps' must be of type int, found '3'"),
        ("tinkex train sft broken.toml", "broken.toml is not TOML"),
        ("tinkex train sft --data numbers.jsonl --schedule lineal", "'lineal' is not one of"),
        ("tinkex train rl --data prompts.jsonl --reward vowels", "does not name a function"),
        ("tinkex train rl --data prompts.jsonl --reward no:f", "no cannot be imported"),
        ("tinkex train sft --data bad.jsonl", "bad.jsonl:1: not JSON"),
        ("tinkex train sft --data numbers.jsonl --log wandb", "--log wandb needs the package"),
        ("tinkex train sft --data empty.jsonl", "has nothing to train on"),
    ],
)
def test_a_mistake_of_the_user_ends_with_2(line: str, message: str, here: Path) -> None:
    for name, text in {
        "misspelt.toml": "learnin_rate = 0.1",
        "wrong.toml": 'data = "numbers.jsonl"\nsteps = "3"',
        "broken.toml": "data = ",
        "bad.jsonl": "nonsense",
        "empty.jsonl": "",
    }.items():
        Path(name).write_text(text)
    done = run(line)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_server_an_embedded_one_trains_where_serve_keeps_its_data(
    here: Path, torch_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def start(models: Any, *, data_dir: Path | None = None) -> str:
        started.append(data_dir)
        return torch_server.base_url  # another engine would take seconds to load

    monkeypatch.delenv("TINKER_BASE_URL")
    monkeypatch.delenv("TINKER_API_KEY")
    monkeypatch.setenv("XDG_DATA_HOME", str(here / "share"))
    monkeypatch.setattr(tinkex.local.beside, "start", start)
    done = run(f"tinkex train sft sft.toml {SHORT['train sft']}")
    assert done.exit_code == 0, done.output
    assert started == [here / "share" / "tinkex"]
    assert done.stderr.startswith("No server is set, so an embedded one trains on this machine, ")

    started[0].mkdir(parents=True)
    [download] = re.findall(r"^hint: (tinkex checkpoint download .*)$", done.stderr, re.MULTILINE)
    downloaded = run(f"{download} -q")
    assert downloaded.exit_code == 0, downloaded.output
    assert started == [here / "share" / "tinkex"] * 2
    assert (Path(downloaded.stdout.strip()) / "adapter_model.safetensors").exists()

"""Every public class and function has a docstring, and the examples in docstrings work."""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import tinkex
import tinkex.data
import tinkex.recipes
from tests.support.batches import datum
from tests.support.docstring_examples import indented_example
from tinkex.local import Server, serve

TINKEX = Path(inspect.getfile(tinkex)).parent
URL = "http://127.0.0.1:8765"
BASE_MODEL = "Qwen/Qwen3-8B"
"""The base model that examples name; they run with tinkex/tiny."""
RUN = "runs/sft-20261129-120000"
_NUMBERS = '{"prompt": "two =", "completion": " 2"}\n'
_CHAT = '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]'
FILES = {
    "numbers.jsonl": _NUMBERS,
    "held_out.jsonl": _NUMBERS,
    "prompts.jsonl": '{"prompt": "two ="}\n',
    "pairs.jsonl": '{"prompt": "two =", "chosen": " 2", "rejected": " 3"}\n',
    "chats.jsonl": f'{{"messages": {_CHAT}}}\n',
    "sft.toml": 'data = "numbers.jsonl"\n',
    "rewards.py": "def correct(row, answer):\n    return float(len(answer))\n",
}
"""The files that examples name."""


def _documented() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder()
    for file in sorted(TINKEX.rglob("*.py")):
        if re.search(r"^ *(Example:|>>> )", file.read_text(), re.MULTILINE):
            parts = file.relative_to(TINKEX.parent).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            yield from finder.find(import_module(name), name)


DOCUMENTED = list(_documented())
DOCTESTS = {found.name: found for found in DOCUMENTED if found.examples}
EXAMPLES = {
    found.name: code
    for found in DOCUMENTED
    if not found.name.startswith("tinkex.ray.")  # tests/client/ray runs those, on a cluster
    and (code := indented_example(inspect.cleandoc(found.docstring or "")))
}


PUBLIC = {
    name: value
    for name in tinkex.__dir__()
    if inspect.isclass(value := getattr(tinkex, name)) or inspect.isfunction(value)
}
PUBLIC_CLASSES = [
    name
    for name, value in PUBLIC.items()
    if inspect.isclass(value) and not issubclass(value, tinkex.TinkexError)
]
"""Errors are not among them: the example of `TinkexError` shows how all of them are caught."""


def _calls_of(client: type) -> set[str]:
    """Returns the names of a client's own calls in its blocking form."""
    return {
        name
        for name, value in vars(client).items()
        if inspect.isfunction(value) and not name.startswith("_") and not name.endswith("_async")
    } - {"close", "over"}


MAIN_CALLS = [
    f"{prefix}{client}.{call}"
    for client, calls in {
        "ServiceClient": (
            "create_lora_training_client",
            "create_training_client_from_state",
            "create_training_client_from_state_with_optimizer",
            "create_sampling_client",
            "create_custom_loss",
            "create_recoverable_run",
        ),
        "TrainingClient": (
            "forward_backward",
            "forward",
            "forward_backward_custom",
            "optim_step",
            "train_step",
            "save_state",
            "load_state",
            "load_state_with_optimizer",
            "save_weights_for_sampler",
            "save_weights_and_get_sampling_client",
        ),
        "SamplingClient": (
            "sample",
            "sample_many",
            "sample_stream",
            "compute_logprobs",
            "from_sampler_handle",
        ),
        "RestClient": _calls_of(tinkex.RestClient) - {"push_to_hub"},  # it needs the hub
        "AdminClient": _calls_of(tinkex.AdminClient),
    }.items()
    for prefix in ("", "Async")
    for call in sorted(calls)
] + ["Tokenizer.encode", "Tokenizer.decode"]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_class_or_function_has_a_docstring(name: str) -> None:
    # not `getdoc`, which takes the one of a base class
    assert PUBLIC[name].__doc__


@pytest.mark.parametrize("name", [*PUBLIC_CLASSES, "TinkexError"])
def test_the_docstring_of_a_public_class_has_a_short_example(name: str) -> None:
    assert 3 <= _example_length(PUBLIC[name].__doc__) <= 8


@pytest.mark.parametrize("name", MAIN_CALLS)
def test_the_docstring_of_a_main_call_has_a_short_example(name: str) -> None:
    owner, call = name.split(".")
    assert 2 <= _example_length(getattr(PUBLIC[owner], call).__doc__) <= 8


def _example_length(docstring: str | None) -> int:
    """Returns the number of lines of the example that are not blank."""
    section = re.search(
        r"^Example:\n((?:[ \t]+\S.*\n?|\n)+)", inspect.cleandoc(docstring or ""), re.MULTILINE
    )
    return sum(bool(line.strip()) for line in section[1].splitlines()) if section else 0


def test_the_examples_for_generated_classes_have_names_of_such_classes() -> None:
    file = TINKEX.parent / "openapi" / "templates" / "examples.py.jinja"
    named = re.findall(r"macro (\w+)", file.read_text())
    assert named
    assert set(named) <= set(PUBLIC_CLASSES)


@pytest.fixture(scope="module")
def _shared_names(torch_server: Server) -> Iterator[dict[str, Any]]:
    data = [datum(1, 2, 3), datum(4, 5, 6)]
    config = tinkex.Config(base_url=torch_server.base_url, api_key="tml-test")
    with ExitStack() as stack:
        service = stack.enter_context(tinkex.ServiceClient(config=config))
        trainer = service.create_lora_training_client("tinkex/tiny", rank=4)
        clients = {
            "service": service,
            "trainer": trainer,
            "sampler": trainer.save_weights_and_get_sampling_client(),
            "rest": service.create_rest_client(),
            "admin": stack.enter_context(tinkex.AdminClient(config=config)),
        }
        values: dict[str, Any] = {
            "datum": data[0],
            "data": data,
            "batches": [data] * 200,
            "losses": {},
            "path": trainer.save_state("example").result().path,
            "sampler_path": trainer.save_weights_for_sampler("example").result().path,
            "config": config,
        }
        values |= {"tokenizer": trainer.get_tokenizer(), "state_path": values["path"]}
        public = {name: getattr(tinkex, name) for name in tinkex.__dir__()}
        for module in (tinkex.data, tinkex.recipes):
            public |= {name: getattr(module, name) for name in module.__all__}
        yield {**public, "torch": pytest.importorskip("torch"), **clients, **values}


@pytest.fixture
def names(
    _shared_names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """The names that examples may use: all of `tinkex`, blocking clients, data and paths."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINKER_BASE_URL", _shared_names["config"].base_url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    # a module of this folder is imported, and forgotten at the end
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "rewards", raising=False)
    names: dict[str, Any] = {"tinkex": tinkex, **_shared_names, "folder": tmp_path}
    yield names
    if "show" in names:  # the listener of an example
        tinkex.events.detach(names["show"])


@pytest.mark.parametrize("name", DOCTESTS)
def test_a_doctest_passes(name: str, names: dict[str, Any]) -> None:
    test = DOCTESTS[name]
    test.globs = {**names, **test.globs}
    said: list[str] = []
    failed = doctest.DocTestRunner().run(test, out=said.append).failed
    assert not failed, "".join(said)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(
    name: str, names: dict[str, Any], torch_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "my-adapter" in EXAMPLES[name]:
        names["rest"].download_checkpoint(names["sampler_path"]).rename("my-adapter")
    source = EXAMPLES[name].replace(URL, torch_server.base_url).replace(BASE_MODEL, "tinkex/tiny")
    source = source.replace("run.steps(200)", "run.steps(2)")  # 200 steps take ten seconds
    source = re.sub(r"\bsteps=\d+", "steps=1, batch_size=1", source)
    if "resume(" in source:
        names["train"](names["SftConfig"](data="numbers.jsonl", out=RUN), names["service"])
    with ExitStack() as stack:
        if name.endswith(("get_api_key_info", "revoke_api_key")):
            _use_a_server_with_keys(names, monkeypatch, stack)
        _run(source, name, names)


def _use_a_server_with_keys(
    names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    keys = ["tml-test", "tml-leaked"]
    server = stack.enter_context(serve(["tinkex/tiny"], engine="fake", api_key=keys))
    monkeypatch.setenv("TINKER_BASE_URL", server.base_url)
    config = tinkex.Config(base_url=server.base_url, api_key="tml-test")
    names |= {"config": config, "rest": stack.enter_context(tinkex.RestClient(config))}


def _run(source: str, name: str, names: dict[str, Any]) -> None:
    code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(_run_with_asyncio_clients(code, names))
    else:
        exec(code, names)


async def _run_with_asyncio_clients(code: Any, names: dict[str, Any]) -> None:
    async with tinkex.AsyncServiceClient(config=names["config"]) as service:
        trainer = await service.create_lora_training_client("tinkex/tiny", rank=4)
        clients = {
            "service": service,
            "trainer": trainer,
            "sampler": await trainer.save_weights_and_get_sampling_client(),
            "rest": service.create_rest_client(),
        }
        await eval(code, {**names, **clients})

"""Writes docs/servers.md from the table of dialects, the rules, and the tests that hold them: `make docs`. With --check, compares."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from servers_seen import seen  # noqa: E402

from tests.rules import RULES  # noqa: E402 - found through the line above
from tinkex.dialects.dialect import Dialect, SamplingWays  # noqa: E402
from tinkex.dialects.recognition import RECOGNISED  # noqa: E402
from tinkex.dialects.table import DIALECTS, UNKNOWN  # noqa: E402

TARGET = ROOT / "docs" / "servers.md"
HEAD = """# Servers

<!-- Made by `make docs` from tinkex/dialects/table.py, tests/rules.py and the tests' marks: do not edit. -->

Servers that speak the Tinker API differ in a dozen ways. tinkex asks a server what it is when a session begins, goes on learning from its answers,
and shows what it knows as `service.server`. What cannot be found out can be given: `Config(dialect="skyrl")`, or a `tinkex.Dialect` of your own.
`tinkex serve --profile NAME` imitates each of them, so that a program can be tried on it with no server of that kind at hand; the tests of the
rules below run on these. Where a row says what a server lacks, the call raises `UnsupportedByServer` before anything is sent.

"""


def rows(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def known(d: Dialect, cell: str, *names: str) -> str:
    """A cell with a mark where one of the fields that it is made of was measured."""
    return f"{cell} (m)" if cell and any(d.known(name).how == "measured" for name in names) else cell


def evidence() -> str:
    """How each claim is known: of each dialect, what was read and when, and the fields that were measured."""

    def row(d: Dialect) -> list[str]:
        measured = [f"{name}: {found.release}, {found.day}" for name, found in sorted(d.evidence.items())]
        return [f"`{d.name}`", str(d.source), "<br>".join(measured)]

    text = (
        "A cell that ends in (m) was measured: seen by its effect on a running server. All others were read in the server's source,\n"
        "of the release and on the day that this table says, and may be otherwise when it runs.\n\n"
    )
    header = ["name", "known, unless said otherwise", "measured: field, release, day"]
    return "## How it is known\n\n" + text + rows(header, [row(d) for d in DIALECTS.values()])


def servers() -> str:
    body = [[f"`{d.name}`", d.about, "yes" if d.name in RECOGNISED else "by what is seen, or given"] for d in DIALECTS.values()]
    return "## The dialects\n\n" + rows(["name", "server", "told by its flags"], body)


def wire() -> str:
    def row(d: Dialect) -> list[str]:
        hold = {"at_once": "within the POST"}.get(d.pending, f"{d.pending}, {f'{d.hold:g} s' if d.hold else 'at once'}")
        cells = [", then ".join(d.encodings), d.results, hold, d.failed, "once" if d.results_once else ""]
        fields = [("encodings",), ("results",), ("pending", "hold"), ("failed",), ("results_once",)]
        return [f"`{d.name}`", *(known(d, cell, *names) for cell, names in zip(cells, fields, strict=True))]

    header = ["name", "batches", "results", '"not yet", held for', "failed", "a result is given"]
    return "## Bodies and answers\n\n" + rows(header, [row(d) for d in (*DIALECTS.values(), UNKNOWN)])


def order() -> str:
    def row(d: Dialect) -> list[str]:
        parallel = (
            "together"
            if d.parallel_chunks
            else "one by one, and a step when the batches before it are done"
            if d.overtakes
            else "one by one"
        )
        cells = [d.seq_id_order, d.seq_id_repeats, parallel, d.resume.replace("_", " ")]
        fields = ["seq_id_order", "seq_id_repeats", "parallel_chunks", "resume"]
        return [f"`{d.name}`", *(known(d, cell, name) for cell, name in zip(cells, fields, strict=True))]

    text = (
        "What a server does with a (model, seq_id) that it has had decides what becomes of a training request whose answer was lost. `repeats`: it is\n"
        "sent again until it is answered, and applied once. `refuses`: it is sent again once, and the refusal is read. `ignores`, `unknown`: it is not\n"
        "sent again, and `StepOutcomeUnknown` is raised. What was only read in a server's source is not believed: it counts as `unknown`\n"
        "until `service.probe_server(base_model)` has proved it, by its effect on a model of its own.\n\n"
    )
    header = ["name", "seq_ids", "a repeat", "chunks of a batch", "a model from a checkpoint"]
    return "## Order, repeats, resuming\n\n" + text + rows(header, [row(d) for d in (*DIALECTS.values(), UNKNOWN)])


def lacks() -> str:
    def row(d: Dialect) -> list[str]:
        losses = ", ".join(sorted(d.losses)) if d.losses else "as it says itself"
        notes = "; ".join(_loss_notes(d))
        cells = [losses + (f" ({notes})" if notes else ""), ", ".join(_odd(d.sampling)), ", ".join(sorted(d.missing))]
        fields = [("losses", "loss_notes", "splits_batches"), ("sampling",), ("missing",)]
        return [f"`{d.name}`", *(known(d, cell, *names) for cell, names in zip(cells, fields, strict=True))]

    return "## Losses, sampling, and what is missing\n\n" + rows(
        ["name", "losses", "samples otherwise", "lacks"], [row(d) for d in DIALECTS.values()]
    )


def _loss_notes(d: Dialect) -> Iterator[str]:
    yield from (f"{loss}: {note}" for loss, note in d.loss_notes.items())
    if d.divides_by_weights:
        yield "each datum's is divided by its weights, so that custom losses go by importance_sampling"


def _odd(ways: SamplingWays) -> Iterator[str]:
    if not ways.base_models:
        yield "no base models"
    if not ways.saved_names:
        yield "not what was saved for sampling by name"
    if not ways.prompt_logprobs:
        yield "no logprobs of the prompt"
    if not ways.seeds:
        yield "seeds have no effect"
    usual = SamplingWays()
    for name in ("greedy_temperature", "top_p_off", "top_k_off"):
        if getattr(ways, name) != getattr(usual, name):
            yield f"{name.replace('_', ' ')} is sent as {getattr(ways, name)}"
    if ways.max_tokens:
        yield f"at most {ways.max_tokens} tokens"
    if ways.max_samples:
        yield f"at most {ways.max_samples} samples a request"


def rules() -> str:
    tests = marked_tests()
    body = [[str(number), words, "<br>".join(f"`{test}`" for test in tests[number])] for number, words in RULES.items()]
    return "## The rules\n\n" + rows(["", "rule", "held by"], body)


def marked_tests() -> dict[int, list[str]]:
    """The tests that bear `@pytest.mark.rule(number)`, as `file::test`, by number."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                for number in _rules_of(node):
                    found[number].append(f"{path.relative_to(ROOT / 'tests')}::{node.name}")
    return found


def _rules_of(node: ast.FunctionDef) -> Iterator[int]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rule":
            for argument in decorator.args:
                yield ast.literal_eval(argument)


def main() -> int:
    text = HEAD + "\n".join([servers(), evidence(), wire(), order(), lacks(), seen(), rules()])
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text() != text:
            print("docs/servers.md is not what the dialects, the rules and the tests give. Run `make docs`.")
            return 1
        return 0
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

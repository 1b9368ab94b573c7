"""Writes docs/servers.md from the table of dialects, the rules, and the tests that hold them: `make
docs`. With --check, compares.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from servers_seen import seen  # noqa: E402

from tests.support.rules import RULES  # noqa: E402 - found through the line above
from tinkex.dialects.detect import RECOGNISED  # noqa: E402
from tinkex.dialects.dialect import Dialect, SamplingRules  # noqa: E402
from tinkex.dialects.table import DIALECTS, UNKNOWN  # noqa: E402

TARGET = ROOT / "docs" / "servers.md"
HEAD = """# Servers

<!-- Made by `make docs` from tinkex/dialects/table.py, tests/support/rules.py and the tests' marks: do not edit. -->

Servers that speak the Tinker API differ in a dozen ways. tinkex asks a server what it is when a session begins, goes on learning from its answers,
and shows what it knows as `service.server`. What cannot be found out can be given: `Config(dialect="skyrl")`, or a `tinkex.Dialect` of your own.
`tinkex serve --profile NAME` imitates each of them, so that a program can be tried on it with no server of that kind at hand; the tests of the
rules below run on these. Where a row says what a server lacks, the call raises `UnsupportedByServer` before anything is sent.

"""


def rows(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return (
        "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )
        + "\n"
    )


def known(d: Dialect, name: str, words: str) -> str:
    """The words for one field, with a mark where it was measured."""
    return f"{words} (m)" if words and d.known(name).how == "measured" else words


def evidence() -> str:
    """How each claim is known: of each dialect, what was read and when, and what was measured,
    field by field.
    """
    sources = [[f"`{d.name}`", str(d.source), _otherwise_read(d)] for d in DIALECTS.values()]
    measured = [
        [f"`{d.name}`", name, found.release, found.day, found.saw]
        for d in DIALECTS.values()
        for name, found in sorted(d.evidence.items())
        if found.how == "measured"
    ]
    return (
        "## How it is known\n\n"
        "What is followed by (m) was measured: seen by its effect on a running server. All else "
        "was read in the server's source, of the\n"
        "release and by the day that this table says, and may be otherwise when it runs.\n\n"
        + rows(["name", "known, unless said otherwise", "but"], sources)
        + "\nWhat was measured:\n\n"
        + rows(["name", "field", "release", "day", "seen"], measured)
    )


def _otherwise_read(d: Dialect) -> str:
    return "; ".join(
        f"{name}: {found}" for name, found in sorted(d.evidence.items()) if found.how != "measured"
    )


def servers() -> str:
    body = [
        [f"`{d.name}`", d.about, "yes" if d.name in RECOGNISED else "by what is seen, or given"]
        for d in DIALECTS.values()
    ]
    return "## The dialects\n\n" + rows(["name", "server", "told by its first answers"], body)


def wire() -> str:
    def row(d: Dialect) -> list[str]:
        held = known(d, "hold", f"{d.hold:g} s" if d.hold else "at once")
        cells = [
            known(d, "encodings", ", then ".join(d.encodings)),
            known(d, "results", d.results),
            known(d, "pending", "within the POST")
            if d.pending == "at_once"
            else f"{known(d, 'pending', d.pending)}, {held}",
            known(d, "failed", d.failed + (" or by kind" if d.fails_by_kind else "")),
            known(d, "results_once", "once" if d.results_once else ""),
        ]
        return [f"`{d.name}`", *cells]

    header = ["name", "batches", "results", '"not yet", held for', "failed", "a result is given"]
    return "## Bodies and answers\n\n" + rows(
        header, [row(d) for d in (*DIALECTS.values(), UNKNOWN)]
    )


def order() -> str:
    def row(d: Dialect) -> list[str]:
        parallel = known(d, "parallel_chunks", "together" if d.parallel_chunks else "one by one")
        if not d.splits_batches:
            parallel = known(d, "splits_batches", "whole")
        if d.overtakes:
            parallel += known(d, "overtakes", ", and a step when the batches before it are done")
        cells = [
            known(d, "seq_id_order", d.seq_id_order),
            known(d, "seq_id_repeats", d.seq_id_repeats),
            parallel,
            known(d, "resume", d.resume.replace("_", " ")),
            ", ".join(_odd_steps(d)),
        ]
        return [f"`{d.name}`", *cells]

    text = (
        "What a server does with a (model, seq_id) that it has had decides what becomes of a "
        "training request whose answer was lost. `repeats`: it is\n"
        "sent again until it is answered, and applied once. `refuses`: it is sent again once, and "
        "the refusal is read. `ignores`, `unknown`: it is not\n"
        "sent again, and `StepOutcomeUnknown` is raised. What was only read in a server's source "
        "is not believed: it counts as `unknown`\n"
        "until `service.probe_server(base_model)` has proved it, by its effect on a model of its "
        "own.\n\n"
    )
    header = [
        "name",
        "seq_ids",
        "a repeat",
        "chunks of a batch",
        "a model from a checkpoint",
        "otherwise",
    ]
    return (
        "## Order, repeats, resuming\n\n"
        + text
        + rows(header, [row(d) for d in (*DIALECTS.values(), UNKNOWN)])
    )


def _odd_steps(d: Dialect) -> Iterator[str]:
    """Words for what is said nowhere else."""
    for name, words in {
        "failed_step_keeps_number": "a failed step leaves its number to the next",
        "refusals_take_numbers": "a request that is refused takes its number",
        "asks_to_save_optimizer": "the optimizer is saved only where that is asked for",
        "loads_keep_optimizer": "a load always takes over the optimizer, so that one without it is refused here",
        "loads_are_true": "a load brings back what was saved",
        "saves_once": "a second save_state is refused here, as it would be the first",
        "forwards_by_zero_weights": "a forward goes as a forward_backward without weights",
        "pads_logprobs": "a forward's logprobs are padded",
        "unloads_by_query": "unload_model takes the id in the URL",
        "bare_archive_ids": "archives go by bare names",
        "bearer": "the key goes as a bearer token, too",
    }.items():
        if getattr(d, name):
            yield known(d, name, words)
    if not d.tells_rank:
        yield known(d, "tells_rank", "the rank of a checkpoint must be given")


def lacks() -> str:
    def row(d: Dialect) -> list[str]:
        losses = known(
            d, "losses", ", ".join(sorted(d.losses)) if d.losses else "as it says itself"
        )
        notes = "; ".join(_loss_notes(d))
        missing = ", ".join(known(d, f"missing.{name}", name) for name in sorted(d.missing))
        return [
            f"`{d.name}`",
            losses + (f" ({notes})" if notes else ""),
            ", ".join(_odd_samples(d)),
            missing,
        ]

    return "## Losses, sampling, and what is missing\n\n" + rows(
        ["name", "losses", "samples otherwise", "lacks"], [row(d) for d in DIALECTS.values()]
    )


def _loss_notes(d: Dialect) -> Iterator[str]:
    yield from (
        known(d, f"loss_notes.{loss}", f"{loss}: {note}") for loss, note in d.loss_notes.items()
    )
    if d.divides_by_weights:
        words = (
            "each datum's is divided by its weights, so that custom losses go by "
            "importance_sampling"
        )
        yield known(d, "divides_by_weights", words)


def _odd_samples(d: Dialect) -> Iterator[str]:
    ways, usual = d.sampling, SamplingRules()
    words = {
        "base_models": "no base models",
        "saved_names": "not what was saved for sampling by name",
        "prompt_logprobs": "no logprobs of the prompt",
        "seeds": "seeds have no effect",
        "stops": "stops have no effect",
        "names_base": "saved weights need the name of the base model as well",
        "temperature": f"at a temperature of {ways.temperature} alone",
        **{name: f"{name.replace('_', ' ')} is sent as {getattr(ways, name)}" for name in _OFF},
        "max_tokens": f"at most {ways.max_tokens} tokens",
        "max_samples": f"at most {ways.max_samples} samples a request",
    }
    for name, said in words.items():
        if getattr(ways, name) != getattr(usual, name):
            yield known(d, f"sampling.{name}", said)


_OFF = ("greedy_temperature", "top_p_off", "top_k_off")


def rules() -> str:
    tests = marked_tests()
    body = [
        [str(number), words, "<br>".join(f"`{test}`" for test in tests[number])]
        for number, words in RULES.items()
    ]
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
            print(
                "docs/servers.md is not what the dialects, the rules and the tests give. Run "
                "`make docs`."
            )
            return 1
        return 0
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

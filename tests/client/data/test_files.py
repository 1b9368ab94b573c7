"""Data files: formats, errors with their line, truncation, packing, and the check of a file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from tinkex import get_tokenizer
from tinkex.data import DataError, check, load, load_pairs, load_prompts

TINY = get_tokenizer("tinkex/tiny")
END = "<|endoftext|>"


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return path


def pieces(example: Any) -> list[tuple[str, bool]]:
    return [(piece.text, piece.trained) for piece in example.pieces(TINY)]


def test_of_a_completion_the_prompt_is_read_and_the_end_is_learned(tmp_path: Path) -> None:
    (example,) = load(written(tmp_path, {"prompt": "two =", "completion": " 2"}), TINY).examples
    assert pieces(example) == [("two =", False), (f" 2{END}", True)]


def test_an_end_that_is_there_is_not_doubled(tmp_path: Path) -> None:
    (example,) = load(written(tmp_path, {"prompt": "a", "completion": f"b{END}"}), TINY).examples
    assert pieces(example) == [("a", False), (f"b{END}", True)]


def test_of_a_text_all_but_the_first_token_is_learned(tmp_path: Path) -> None:
    (example,) = load(written(tmp_path, {"text": "abc"}), TINY).examples
    assert pieces(example) == [("a", False), (f"bc{END}", True)]
    assert example.loss_tokens == 3


def test_prompt_and_completion_may_be_messages(tmp_path: Path) -> None:
    ask, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    taught = [ask, answer, {"role": "user", "content": "c"}]
    (example,) = load(
        written(tmp_path, {"prompt": taught, "completion": [{**answer, "content": "d"}]}), TINY
    ).examples
    # the answer in the prompt is context
    assert [text for text, trained in pieces(example) if trained] == [f" d{END}"]


def test_a_token_that_would_cross_into_the_completion_is_split_as_in_sampling(
    tmp_path: Path,
) -> None:
    backend = Backend(BPE({"a": 0, "b": 1, "c": 2, "ab": 3}, [("a", "b")]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    tokenizer = get_tokenizer(str(tmp_path))
    crossing, whole = load(
        written(
            tmp_path,
            {"prompt": "ca", "completion": "bc"},
            {"prompt": "cab", "completion": "c"},
        ),
        tokenizer,
    ).examples
    assert crossing.tokens.tolist() == [2, 0, 1, 2]
    assert crossing.weights.tolist() == [0, 0, 1, 1]
    assert whole.tokens.tolist() == [2, 3, 2]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", r"not JSON: .* at column 2"),
        ("[1]", r"expected a JSON object, found a list"),
        ('{"text": "a"},', r"Remove the comma"),
        ({"question": "a"}, r"no known format: found 'question'\n.*'question' to 'prompt'"),
        ({"conversations": []}, r"Rename 'conversations' to 'messages', with a 'role'"),
        (
            {"instruction": "a", "input": "", "output": "b"},
            r"Rename 'instruction' to 'prompt' and 'output' to 'completion'\.",
        ),
        ({"messages": [{"role": "gpt", "content": "a"}]}, r"role 'gpt'\n.*'assistant'"),
        ({"messages": [{"role": "Assistant", "content": "a"}]}, r"Name it 'assistant'"),
        ({"messages": [{"role": "asistant", "content": "a"}]}, r"Name it 'assistant'"),
        ({"messages": [{"role": "human", "content": "a"}]}, r"Name it 'user'"),
        ({"prompt": None, "completion": "a"}, r"'prompt' must be text or a list of messages"),
        ({"prompt": "a", "completion": 3}, r"'prompt' is text, but 'completion' is a number"),
        ({"text": None}, r"'text' must be text, found null"),
        ({"messages": []}, r"'messages' must be a list of messages, found an empty list"),
        ({"messages": ["hi"]}, r"messages\[0\] must be an object with a 'role'"),
        ({"messages": [{"role": "user"}]}, r"the 'content' of messages\[0\] must be text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            r"part of type 'image_url'",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, r"tinkex train dpo"),
    ],
)
def test_an_error_names_file_and_line(tmp_path: Path, row: Any, problem: str) -> None:
    path = written(tmp_path, {"text": "abc"}, "", row)
    with pytest.raises(DataError, match=problem) as error:
        load(path, TINY)
    assert str(error.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'[{"text": "abc"},\n{"text": "abc"}]', r"an array of objects\n.*jq -c '\.\[\]'"),
        (b'[{"text": "abc"}]', r"an array of objects\n.*jq -c '\.\[\]'"),
        (b'{\n  "text": "abc"\n}\n', r"an object on several lines\n.*jq -c \. "),
        ('{"text": "abc"}\n{"text": "d"}'.encode("utf-16"), r"UTF-16\n.*iconv"),
        (gzip.compress(b'{"text": "abc"}\n' * 9), r"gzip"),
    ],
    ids=["array", "array on one line", "indented", "UTF-16", "gzip"],
)
def test_a_file_that_is_no_jsonl_is_one_error(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        load(path, TINY)
    [error] = check(path, TINY).errors
    assert error.whole


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": " "}, "its text is empty"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no message has the role 'assistant'"),
        ({"messages": [{"role": "critic", "content": "a"}]}, "found 'critic'"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "its answers are empty"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": 0}]}, "have the weight 0"),
    ],
)
def test_check_says_why_there_is_nothing_to_learn(tmp_path: Path, row: Any, reason: str) -> None:
    [(line, words)] = check(written(tmp_path, row), TINY).empty
    assert (line, reason in words) == (1, True), words


def test_an_empty_file_is_a_finding(tmp_path: Path) -> None:
    assert not check(written(tmp_path), TINY).clean


def test_bytes_that_are_not_utf8_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "abc"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"data\.jsonl:2: not UTF-8"):
        load(path, TINY)


def test_long_examples_are_cut_and_counted(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"text": "abcdefgh"},
        {"text": "abc"},
        {"prompt": "abcdefgh", "completion": "i"},
        {"prompt": "a", "completion": " "},
    )
    data = load(path, TINY, max_length=5)
    assert [len(example.tokens) for example in data.examples] == [5, 4]
    assert (data.rows, data.cut, data.cut_tokens, data.lost, data.empty) == (4, 2, 9, 1, 1)
    assert data.tokens == 9
    assert data.loss_tokens == 7
    assert str(data) == (
        "2 examples of 9 tokens, 7 of them in the loss; 1 empty row left out; 2 examples cut by "
        "9 tokens in all; 1 left out because the cut left nothing to learn"
    )


def test_packing_keeps_the_order_and_which_tokens_count(tmp_path: Path) -> None:
    rows = [{"text": "abc"}, {"prompt": "de", "completion": "f"}, {"text": "ghijk"}]
    alone = load(written(tmp_path, *rows), TINY, max_length=8)
    packed = load(written(tmp_path, *rows), TINY, max_length=8, packed=True)
    assert [example.line for example in packed.examples] == [1, 3]
    tokens = [
        np.concatenate([e.tokens for e in data.examples]).tolist() for data in (alone, packed)
    ]
    assert tokens[0] == tokens[1]
    assert packed.loss_tokens == alone.loss_tokens
    assert pieces(packed.examples[0]) == [
        ("a", False),
        (f"bc{END}", True),
        ("de", False),
        (f"f{END}", True),
    ]


def test_pairs_have_one_prompt_and_two_answers(tmp_path: Path) -> None:
    user = {"role": "user", "content": "a"}
    answers = [{"role": "assistant", "content": text} for text in ("b", "c")]
    path = written(
        tmp_path,
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": [user], "chosen": [answers[0]], "rejected": "c"},
        {"chosen": [user, answers[0]], "rejected": [user, answers[1]]},
    )
    text, messages, chats = load_pairs(path, TINY)
    assert [pieces(text.chosen), pieces(text.rejected)] == [
        [("a", False), (f"b{END}", True)],
        [("a", False), (f"c{END}", True)],
    ]
    for pair in (messages, chats):
        assert [p for p in pieces(pair.rejected) if p[1]] == [(f" c{END}", True)]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "a", "chosen": "b"}, r":1: a preference pair lacks 'rejected'"),
        ({"prompt": "a", "chosen": " ", "rejected": "c"}, r":1: 'chosen' has no answer"),
        ({"prompt": "a", "chosen": "b" * 9, "rejected": "c"}, r":1: an answer .* 11 tokens"),
    ],
)
def test_an_error_of_a_pair_names_its_line(tmp_path: Path, row: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        load_pairs(written(tmp_path, row), TINY, max_length=8)


def test_prompts_keep_their_row(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
    path = written(
        tmp_path,
        {"prompt": "a", "level": 3},
        {"prompt": "a", "completion": "b"},
        {"messages": chat},
    )
    bare, answered, asked = load_prompts(path, TINY)
    assert bare.row.fields["level"] == 3
    assert TINY.decode(answered.tokens) == "a"
    assert TINY.decode(asked.tokens) == "user: q\nassistant:"


def test_check_goes_on_after_an_error_and_names_every_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"text": "abc"},
        {"prompt": "a", "completion": "b"},
        "nonsense",
        {"prompt": "a", "completion": ""},
        {"text": "abc"},
        {"text": "abcdefgh"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"messages": [{"role": "user", "content": 3}]},
    )
    report = check(path, TINY, max_length=6)
    assert [error.line for error in report.errors] == [3, 8]
    assert report.empty == [(4, "its completion is empty")]
    assert report.duplicates == [(5, 1)]
    assert report.cut == [(6, 3)]
    assert report.rows == 8
    assert report.formats == {"text": 3, "completion": 2, "preference pair": 1}
    assert (report.longest, report.longest_line) == (9, 6)
    assert not report.clean
    assert check(written(tmp_path, {"text": "abc"}), TINY).clean

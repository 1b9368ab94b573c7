"""Tokens as text, piece by piece."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinkex_server.engine.model_info import describe
from tinkex_server.pages.token_text import TextPieces, vocabulary

WORDS = vocabulary(describe(str(Path(__file__).parents[3] / "tinkex" / "tiny")))


@pytest.mark.parametrize("text", ["forty two is 42\n", "Grüße, 世界! 🙂🙂 done", "  two  spaces"])
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    pieces = TextPieces(WORDS, WORDS.encode("a prompt: "))
    assert "".join(pieces.add(token) for token in WORDS.encode(text)) == text


def test_a_character_of_several_tokens_belongs_to_the_last_of_them() -> None:
    tokens = WORDS.encode("🙂")
    assert len(tokens) > 1
    pieces = TextPieces(WORDS, [])
    assert [pieces.add(token) for token in tokens] == [*[""] * (len(tokens) - 1), "🙂"]


def test_many_tokens_take_no_longer_each() -> None:
    pieces = TextPieces(WORDS, WORDS.encode("x" * 5000))
    text = "one two three " * 200
    assert "".join(pieces.add(token) for token in WORDS.encode(text)) == text

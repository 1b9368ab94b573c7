"""Text of tokens as they come: all of it, in order, and never half a character."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from tinkex import Tokenizer, get_tokenizer
from tinkex.tokenizer.files import TokenizerFiles

BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}
PIECES = ["\u2581", "\u2581a", "a", "b", "."]


def of_bytes() -> Tokenizer:
    return get_tokenizer("tinkex/tiny")


def of_pieces() -> Tokenizer:
    """Returns one as Llama 2's: pieces with a blank before, of which the first loses its own, and
    bytes for the rest.
    """
    vocabulary = {**BYTES, **{piece: 256 + number for number, piece in enumerate(PIECES)}}
    backend = Backend(BPE(vocabulary, [], byte_fallback=True))
    parts = [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    backend.decoder = decoders.Sequence(parts)
    backend.add_special_tokens([AddedToken("<s>", special=True)])
    return Tokenizer.over("pieces", TokenizerFiles(backend.to_str(), lambda _: None))


def pieces(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    decoder = tokenizer.stream_decoder()
    return [*(decoder.push(token) for token in tokens), decoder.end()]


def test_a_character_is_emitted_whole() -> None:
    assert pieces(of_bytes(), list("né漢🙂!".encode())) == [
        "n",
        "",
        "é",
        "",
        "",
        "漢",
        "",
        "",
        "",
        "🙂",
        "!",
        "",
    ]


def test_an_incomplete_character_is_emitted_at_the_end() -> None:
    assert pieces(of_bytes(), [97, 0xE4, 0xBD]) == ["a", "", "", "\N{REPLACEMENT CHARACTER}"]


def test_several_tokens_at_once() -> None:
    decoder = of_bytes().stream_decoder()
    first, second = list("h🙂i".encode())[:3], list("h🙂i".encode())[3:]
    assert [decoder.push(first), decoder.push(second), decoder.push([]), decoder.end()] == [
        "h",
        "🙂i",
        "",
        "",
    ]


def test_special_tokens_are_left_out_or_not() -> None:
    tokens = [97, 256, 98]
    assert "".join(pieces(of_bytes(), tokens)) == "ab"
    decoder = of_bytes().stream_decoder(skip_special_tokens=False)
    assert "".join(decoder.push(token) for token in tokens) == "a<|endoftext|>b"


def test_a_blank_before_a_word_stays_after_special_tokens() -> None:
    tokenizer = of_pieces()
    special = tokenizer.special_tokens["<s>"]
    word = tokenizer.convert_tokens_to_ids("\u2581a")
    assert word is not None
    assert pieces(tokenizer, [special, word, special, special, word]) == ["", "a", "", "", " a", ""]


# the bytes of pieces are those of texts alone
@pytest.mark.parametrize(("make", "least"), [(of_bytes, 0), (of_pieces, 256)])
@given(st.data())
def test_the_joined_pieces_are_the_decoded_text(
    make: Callable[[], Tokenizer], least: int, data: st.DataObject
) -> None:
    tokenizer = make()
    text = st.text(max_size=6).map(lambda text: list(text.encode()))
    chunk = st.one_of(text, st.lists(st.integers(least, len(tokenizer) - 1), max_size=6))
    tokens = [token for part in data.draw(st.lists(chunk, max_size=6)) for token in part]
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_the_work_per_token_does_not_grow_with_the_text() -> None:
    longest = 0

    def decode(tokens: object) -> str:
        nonlocal longest
        longest = max(longest, len(list(tokens)))  # type: ignore[call-overload]
        return backend.decode(tokens)  # type: ignore[arg-type]

    from tinkex.tokenizer.stream import StreamDecoder

    backend = of_bytes()
    decoder = StreamDecoder(decode)
    for token in [97, *[256] * 50, *list("né".encode()) * 100]:
        decoder.push(token)
    assert longest <= 4

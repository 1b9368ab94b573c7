"""Tokenizers by name: shipped with tinkex, in a folder or file, from a server, or on the Hugging
Face hub.
"""

from tinkex.tokenizer.encoding import Encoding
from tinkex.tokenizer.lookup import (
    find_tokenizer,
    get_tokenizer,
    known_tokenizer,
    loaded_tokenizer,
    names_of_tokenizer,
)
from tinkex.tokenizer.sources import TokenizerError
from tinkex.tokenizer.stream import StreamDecoder
from tinkex.tokenizer.tokenizer import Tokenizer

__all__ = [
    "Encoding",
    "StreamDecoder",
    "Tokenizer",
    "TokenizerError",
    "find_tokenizer",
    "get_tokenizer",
    "known_tokenizer",
    "loaded_tokenizer",
    "names_of_tokenizer",
]

"""`Tokenizer`: the conversion of text to token ids and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from tinkex.tokenizer.encoding import Encoding
from tinkex.tokenizer.files import CONFIG, TOKENIZER, TokenizerFiles, chat_template
from tinkex.tokenizer.stream import StreamDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@frozen(repr=False)
class Tokenizer:
    """A tokenizer, which converts text to token ids and back. It is thread-safe.

    Its members have the names of those of a transformers tokenizer. `encode` returns a list, and
    `encode_np` returns the same ids as an array.

    Example:
        >>> tokenizer = get_tokenizer("tinkex/tiny")
        >>> tokenizer.encode("hi") + [tokenizer.eos_token_id]
        [104, 105, 256]
    """

    name: str
    _backend: Backend
    _roles: Mapping[str, str | None] = field(factory=dict[str, "str | None"])
    _beside: Mapping[str, str] = field(factory=dict[str, str])
    """The texts of the files beside tokenizer.json, by their names."""

    @classmethod
    def over(cls, name: str, files: TokenizerFiles) -> Self:
        """Creates a tokenizer from its files.

        It never truncates or pads, even if the files say so.
        """
        backend = Backend.from_str(files.tokenizer_json)
        backend.no_truncation()
        backend.no_padding()
        roles = dict(files.roles())
        if (
            "eos_token" not in roles
            and (end := files.end_id()) is not None
            and (token := backend.id_to_token(end))
        ):
            roles["eos_token"] = token
        return cls(name, backend, roles, files.beside())

    def __repr__(self) -> str:
        return f"<Tokenizer {self.name}, {len(self)} tokens>"

    # ---- text to ids ----

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Returns the token ids of a text as a list.

        Args:
            text: the text to encode.
            add_special_tokens: whether to add the special tokens that the tokenizer puts before and
                after a text, such as `bos_token`.

        Example:
            >>> tokenizer = get_tokenizer("tinkex/tiny")
            >>> tokenizer.encode("hi")
            [104, 105]
        """
        return self._backend.encode(text, add_special_tokens=add_special_tokens).ids

    encode_text = encode  # the name in other Tinker clients

    def encode_np(self, text: str, *, add_special_tokens: bool = False) -> NDArray[np.int64]:
        """Returns the token ids of a text as an array of shape `(N,)`."""
        return np.asarray(self.encode(text, add_special_tokens=add_special_tokens), np.int64)

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = False
    ) -> list[list[int]]:
        """Returns the token ids of each text, computed in parallel on all processors."""
        encodings = self._backend.encode_batch_fast(
            list(texts), add_special_tokens=add_special_tokens
        )
        return [encoding.ids for encoding in encodings]

    @overload
    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Encoding[list[int]]: ...
    @overload
    def __call__(
        self, text: list[str] | tuple[str, ...], *, add_special_tokens: bool = True
    ) -> Encoding[list[list[int]]]: ...
    def __call__(
        self, text: str | list[str] | tuple[str, ...], *, add_special_tokens: bool = True
    ) -> Encoding[list[int]] | Encoding[list[list[int]]]:
        """Returns `input_ids` and `attention_mask` of one text or of several, like a transformers
        tokenizer.

        Args:
            text: one text, or a list or tuple of texts.
            add_special_tokens: whether to add the special tokens that the tokenizer puts before and
                after a text. The default is that of transformers, and differs from `encode`.
        """
        if isinstance(text, str):
            ids = self.encode(text, add_special_tokens=add_special_tokens)
            return Encoding(ids, [1] * len(ids))
        rows = self.encode_batch(text, add_special_tokens=add_special_tokens)
        return Encoding(rows, [[1] * len(row) for row in rows])

    # ---- ids to text ----

    def decode(
        self, tokens: int | Sequence[int] | NDArray[np.integer], *, skip_special_tokens: bool = True
    ) -> str:
        """Returns the text of token ids, by default without the `special_tokens`.

        Example:
            >>> tokenizer = get_tokenizer("tinkex/tiny")
            >>> tokenizer.decode([104, 105, tokenizer.eos_token_id])
            'hi'
        """
        return self._backend.decode(
            np.atleast_1d(tokens).tolist(), skip_special_tokens=skip_special_tokens
        )

    def stream_decoder(self, *, skip_special_tokens: bool = True) -> StreamDecoder:
        """Returns a decoder that converts the tokens of one sample to text as they arrive."""
        return StreamDecoder(
            lambda tokens: self._backend.decode(tokens, skip_special_tokens=skip_special_tokens)
        )

    # ---- the vocabulary ----

    @property
    def name_or_path(self) -> str:
        """The name by which the tokenizer was loaded."""
        return self.name

    @property
    def vocab_size(self) -> int:
        """The number of tokens without added ones, which are mostly special tokens.

        `len(tokenizer)` counts all tokens.
        """
        return self._backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._backend.get_vocab_size()

    def get_vocab(self) -> dict[str, int]:
        """Returns the id of each token."""
        return self._backend.get_vocab()

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int | None]: ...
    def convert_tokens_to_ids(
        self, tokens: str | list[str] | tuple[str, ...]
    ) -> int | list[int | None] | None:
        """Returns the id of a token, such as `"<|im_end|>"`, or the ids of several.

        A string that is not a token has the id `unk_token_id`, which may be None.
        """
        if isinstance(tokens, str):
            found = self._backend.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int) -> str | None: ...
    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]: ...
    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> str | list[str | None] | None:
        """Returns the token of an id, or the tokens of several, as they are in the vocabulary.

        The token of an unknown id is None.
        """
        if isinstance(ids, int):
            return self._backend.id_to_token(ids)
        return [self.convert_ids_to_tokens(id_) for id_ in ids]

    # ---- special tokens ----

    @property
    def special_tokens(self) -> dict[str, int]:
        """The id of each special token. `decode` leaves these tokens out by default."""
        added = self._backend.get_added_tokens_decoder()
        return {token.content: id_ for id_, token in sorted(added.items()) if token.special}

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special token of each role, such as `"eos_token"`, that the files name."""
        return {role: token for role, token in self._roles.items() if token is not None}

    @property
    def bos_token(self) -> str | None:
        """The token that begins a text; None if the tokenizer's files name none."""
        return self._roles.get("bos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The id of `bos_token`; None if there is no such token."""
        return self._id("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text; None if the tokenizer's files name none."""
        return self._roles.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The id of `eos_token`; None if there is no such token."""
        return self._id("eos_token")

    @property
    def pad_token(self) -> str | None:
        """The token that fills up shorter texts; None if the tokenizer's files name none."""
        return self._roles.get("pad_token")

    @property
    def pad_token_id(self) -> int | None:
        """The id of `pad_token`; None if there is no such token."""
        return self._id("pad_token")

    @property
    def unk_token(self) -> str | None:
        """The token for unknown text; None if the tokenizer's files name none."""
        return self._roles.get("unk_token")

    @property
    def unk_token_id(self) -> int | None:
        """The id of `unk_token`; None if there is no such token."""
        return self._id("unk_token")

    @property
    def sep_token(self) -> str | None:
        """The token between texts; None if the tokenizer's files name none."""
        return self._roles.get("sep_token")

    @property
    def sep_token_id(self) -> int | None:
        """The id of `sep_token`; None if there is no such token."""
        return self._id("sep_token")

    @property
    def cls_token(self) -> str | None:
        """The token for the whole text; None if the tokenizer's files name none."""
        return self._roles.get("cls_token")

    @property
    def cls_token_id(self) -> int | None:
        """The id of `cls_token`; None if there is no such token."""
        return self._id("cls_token")

    @property
    def mask_token(self) -> str | None:
        """The token for a masked token; None if the tokenizer's files name none."""
        return self._roles.get("mask_token")

    @property
    def mask_token_id(self) -> int | None:
        """The id of `mask_token`; None if there is no such token."""
        return self._id("mask_token")

    # ---- chats ----

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that turns the messages of a chat into text; None if the tokenizer's
        files have none. `tinkex.data.chat_template` renders it.
        """
        return chat_template(self._beside)

    # ---- for other libraries ----

    def to_transformers(self) -> PreTrainedTokenizerBase:
        """Returns the same tokenizer as one of transformers, with its chat template.

        Raises:
            ImportError: transformers is not installed.

        Example:
            >>> tokenizer = get_tokenizer("tinkex/tiny").to_transformers()
            >>> tokenizer("hi", add_special_tokens=False)["input_ids"]
            [104, 105]
        """
        # imported here, because it is optional and slow
        transformers: Any = import_module("transformers")
        with TemporaryDirectory(prefix="tinkex-tokenizer-") as name:
            folder = Path(name)
            for file, text in self._beside.items():
                (folder / file).write_text(text, "utf-8")
            (folder / TOKENIZER).write_text(self._backend.to_str(), "utf-8")
            fields: dict[str, Any] = json.loads(self._beside.get(CONFIG, "{}"))
            if "tokenizer_class" not in fields:
                general = {"tokenizer_class": "PreTrainedTokenizerFast"}
                written = json.dumps({**self.special_tokens_map, **general, **fields})
                (folder / CONFIG).write_text(written, "utf-8")
            made: Any = transformers.AutoTokenizer.from_pretrained(name)
        made.name_or_path = self.name
        return made

    def _id(self, role: str) -> int | None:
        token = self._roles.get(role)
        return None if token is None else self._backend.token_to_id(token)

"""`ModelInput`: the input of a model, a sequence of chunks of text tokens, images or audio."""

from __future__ import annotations

import base64
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray
from tinkex_api.types import Model

from tinkex.errors import ArgumentError, InvalidInputError
from tinkex.errors.hints import hinted
from tinkex.types.arrays import ArrayLike, packed, to_dtype, to_numpy

MAX_TOKEN = 2**31 - 1  # tokens travel as int32 in protobuf
_SHOWN = 7  # tokens: one more than reprlib shows, so that it adds an ellipsis


def _tokens(value: ArrayLike) -> NDArray[np.int64] | NDArray[np.int32]:
    """Returns token ids as int64, or those of a list as int32, which takes half of the memory:
    thousands of prompts may wait to be sent.
    """
    small = packed(value, np.int32) if isinstance(value, list) else None
    if small is not None and int(small.view(np.uint32).max()) <= MAX_TOKEN:
        return small
    array = to_dtype(to_numpy(value, "tokens"), "int64", "tokens")
    if array.ndim != 1:
        raise InvalidInputError(
            f"tokens must be one-dimensional, found shape {list(array.shape)}",
            advice="A batch is a list of sequences of different lengths, without padding.",
        )
    # a negative number is a large one without its sign, so that the array is read only once
    if array.size and int(array.view(np.uint64).max()) > MAX_TOKEN:
        position = int(np.argmax((array < 0) | (array > MAX_TOKEN)))
        raise InvalidInputError(
            f"tokens[{position}] is out of range: expected 0 to {MAX_TOKEN}, found "
            f"{array[position]}"
        )
    return array


def _bytes(value: bytes | str) -> bytes:
    """Returns bytes as they are, and base64 text decoded."""
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except ValueError as error:
            raise InvalidInputError(
                f"the data must be bytes or base64, found text that is not base64: {error}"
            ) from error
    if not isinstance(value, (bytes, bytearray, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"the data must be bytes or base64, found {type(value).__name__}")
    return bytes(value)


def _kind(name: str) -> Any:
    """Returns an attrs field for a chunk's `type`: only `name` is allowed, the default."""

    def check(_chunk: object, _field: object, value: object) -> None:
        if value != name:
            raise InvalidInputError(f"type must be {name!r} here, found {value!r}")

    return field(default=name, kw_only=True, repr=False, validator=check)


@hinted
@frozen(eq=False, repr=False)
class EncodedTextChunk(Model):
    """Text as N token ids: `tokens` is a list, `tokens_np` an int64 array `(N,)`.

    Example:
        >>> text = EncodedTextChunk([1, 2, 3])
        >>> text.length, text.tokens_np.dtype
        (3, dtype('int64'))

    Args:
        tokens: a list, numpy array or torch tensor of integers from 0 to 2^31 - 1.

    Raises:
        InvalidInputError: a token is not such an integer, or the array does not have one dimension.
    """

    _array: NDArray[np.int64] | NDArray[np.int32] = field(alias="tokens", converter=_tokens)
    type: Literal["encoded_text"] = _kind("encoded_text")
    _list: list[int] | None = field(init=False, default=None, repr=False)

    @property
    def tokens(self) -> list[int]:
        """The token ids as a list, which may be changed in place. It is made on first access."""
        if self._list is None:
            object.__setattr__(self, "_list", self._array.tolist())
        return cast("list[int]", self._list)

    @property
    def tokens_np(self) -> NDArray[np.int64]:
        """The token ids, int64 `(N,)`. Raises `InvalidInputError` if `tokens` was changed and holds
        something else.
        """
        if self._list is None and self._array.dtype != np.int64:
            object.__setattr__(self, "_array", self._array.astype(np.int64))
        return self.tokens_to_send.astype(np.int64, copy=False)

    @property
    def tokens_to_send(self) -> NDArray[np.int64] | NDArray[np.int32]:
        """The token ids `(N,)` in the form in which they take the least memory."""
        return self._array if self._list is None else _tokens(self._list)

    @property
    def length(self) -> int:
        """The number of tokens."""
        return len(self._array if self._list is None else self._list)

    def __repr__(self) -> str:
        # `tokens` would make the list
        tokens = self._array[:_SHOWN].tolist() if self._list is None else self._list
        return f"EncodedTextChunk(tokens={reprlib.repr(tokens)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedTextChunk) and np.array_equal(
            self.tokens_np, other.tokens_np
        )

    __hash__ = None  # type: ignore[assignment] # like an array's


@hinted
@frozen
class ImageChunk(Model):
    """The file of an image, as bytes or base64 text.

    The server decides how many tokens an image takes. If `expected_tokens` is set and differs, the
    request fails before anything is computed.

    Example:
        >>> image = ImageChunk(data=b"...", format="png", expected_tokens=64)
        >>> ModelInput([EncodedTextChunk([1, 2]), image]).length
        66

    Raises:
        InvalidInputError: the data is neither bytes nor base64 text.
    """

    data: bytes = field(converter=_bytes)
    format: Literal["png", "jpeg"]
    expected_tokens: int | None = None
    type: Literal["image"] = _kind("image")

    @property
    def length(self) -> int:
        """The expected number of tokens. Raises `InvalidInputError` if it is not set."""
        return _expected_tokens(self.expected_tokens)


@hinted
@frozen
class ImageAssetPointerChunk(Model):
    """A reference to an image that the server already has, by its location there.

    Example:
        >>> image = ImageAssetPointerChunk("assets/cat.png", format="png", expected_tokens=64)
        >>> ModelInput([EncodedTextChunk([1, 2]), image]).length
        66
    """

    location: str
    format: Literal["png", "jpeg"]
    expected_tokens: int | None = None
    type: Literal["image_asset_pointer"] = _kind("image_asset_pointer")

    @property
    def length(self) -> int:
        """The expected number of tokens. Raises `InvalidInputError` if it is not set."""
        return _expected_tokens(self.expected_tokens)


def _expected_tokens(count: int | None) -> int:
    if count is None:
        raise InvalidInputError(
            "the length of an image in tokens is not known: the server decides it",
            advice="Set expected_tokens on the chunk.",
        )
    return count


@hinted
@frozen
class DmelChunk(Model):
    """Audio as a serialized mel-spectrogram tensor, as bytes or base64 text.

    The tensor's header (dtype, number of dimensions, sizes) gives the number of tokens.

    Example:
        >>> header = bytes([0, 2, 5, 80])  # dtype 0, two dimensions: 5 tokens of 80 bins
        >>> audio = DmelChunk(header + bytes(5 * 80))
        >>> ModelInput([EncodedTextChunk([1, 2]), audio]).length
        7

    Raises:
        InvalidInputError: the data is neither bytes nor base64 text.
    """

    dmel: bytes = field(converter=_bytes)
    type: Literal["dmel"] = _kind("dmel")

    @property
    def length(self) -> int:
        """The number of tokens: the tensor's first dimension. Raises `InvalidInputError` if the
        header cannot be read.
        """
        header = iter(self.dmel)
        try:
            first = next(header)
            # 254: an optional marker before the dtype
            dtype = next(header) if first == 254 else first
            dimensions = _varint(header)
            if dtype > 7 or dimensions < 1:
                raise InvalidInputError(
                    f"dmel: dtype {dtype} with {dimensions} dimensions is not a tensor's header"
                )
            return _varint(header)
        except StopIteration:
            raise InvalidInputError("dmel ends within its header") from None


def _varint(data: Iterable[int]) -> int:
    """Reads an unsigned LEB128 number, least significant seven bits first."""
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
    raise StopIteration


ModelInputChunk: TypeAlias = EncodedTextChunk | ImageChunk | ImageAssetPointerChunk | DmelChunk


_CHUNKS: Mapping[str, type[ModelInputChunk]] = {
    "encoded_text": EncodedTextChunk,
    "image": ImageChunk,
    "image_asset_pointer": ImageAssetPointerChunk,
    "dmel": DmelChunk,
}


def _chunk_of(value: Any) -> ModelInputChunk:
    """Makes the chunk that a mapping describes; its `type` says which class, and is that of text by
    default.
    """
    if not isinstance(value, Mapping):
        return value
    given = cast("Mapping[str, Any]", value)
    kind = given.get("type", "encoded_text")
    if kind not in _CHUNKS:
        raise InvalidInputError(
            f"a chunk's type must be one of {', '.join(_CHUNKS)}, found {kind!r}"
        )
    return _CHUNKS[kind].model_validate(given)


def _chunks(value: Iterable[ModelInputChunk | Mapping[str, Any]]) -> list[ModelInputChunk]:
    chunks = [_chunk_of(chunk) for chunk in value]
    for index, chunk in enumerate(chunks):
        if not isinstance(chunk, (EncodedTextChunk, ImageChunk, ImageAssetPointerChunk, DmelChunk)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(
                f"chunks[{index}] must be a chunk, found {type(chunk).__name__}",
                advice="For token ids use ModelInput.from_ints(tokens).",
            )
    return chunks


class TextEncoder(Protocol):
    """A tokenizer for `ModelInput.from_text`, such as `tinkex.Tokenizer` or one of transformers."""

    def encode(self, text: str, *, add_special_tokens: bool) -> ArrayLike:
        """Returns the token ids `(N,)` of a text."""
        ...


@hinted
@frozen
class ModelInput(Model):
    """A prompt or a training text: a sequence of chunks. `append` returns a new
    `ModelInput`.

    Example:
        >>> prompt = ModelInput.from_ints([1, 2, 3]).append_int(4)
        >>> prompt.to_ints(), prompt.length
        ([1, 2, 3, 4], 4)

    Args:
        chunks: chunks, or the mappings that `model_dump` makes of them.
    """

    chunks: list[ModelInputChunk] = field(converter=_chunks, factory=list[ModelInputChunk])

    @classmethod
    def from_ints(cls, tokens: ArrayLike) -> ModelInput:
        """Makes one from token ids `(N,)`: a list, numpy array or torch tensor of integers from 0
        to 2^31 - 1. Raises `InvalidInputError` for anything else.
        """
        return cls([EncodedTextChunk(tokens)])

    def with_texts_joined(self) -> ModelInput:
        """Returns a copy in which adjacent text chunks are one chunk. It is sent in this form,
        since some servers read only the first text chunk.
        """
        return self if len(self.chunks) == 1 else ModelInput(list(_joined(self.chunks)))

    @classmethod
    def from_text(
        cls, text: str, *, model_name: str | None = None, tokenizer: TextEncoder | None = None
    ) -> ModelInput:
        """Makes one from text, without special tokens or a chat template.

        Args:
            model_name: the model whose tokenizer to use: a hub id, a folder, or `tinkex/tiny`.
            tokenizer: a tokenizer to use instead: a `Tokenizer`, or one of transformers.

        Raises:
            InvalidInputError: both or neither are given, or `text` is not a str.
            TokenizerError: the tokenizer was not found; the message says where it was searched.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(
                f"text is {type(text).__name__}, not str",
                advice="For token ids use ModelInput.from_ints(tokens).",
            )
        if (model_name is None) == (tokenizer is None):
            raise InvalidInputError("from_text needs either model_name or tokenizer")
        from tinkex.tokenizer import get_tokenizer  # here, because the import is slow

        encoder = tokenizer if tokenizer is not None else get_tokenizer(model_name or "")
        return cls.from_ints(encoder.encode(text, add_special_tokens=False))

    @classmethod
    def empty(cls) -> ModelInput:
        return cls()

    def append(self, chunk: ModelInputChunk) -> ModelInput:
        return ModelInput([*self.chunks, chunk])

    def append_int(self, token: int) -> ModelInput:
        """Returns a copy with one more token, in the last chunk if that is text."""
        if self.chunks and isinstance(last := self.chunks[-1], EncodedTextChunk):
            return ModelInput(
                [*self.chunks[:-1], EncodedTextChunk(np.append(last.tokens_np, token))]
            )
        return self.append(EncodedTextChunk([token]))

    @property
    def length(self) -> int:
        """The number of tokens. Raises `InvalidInputError` if an image has no `expected_tokens`."""
        return sum(chunk.length for chunk in self.chunks)

    @property
    def known_length(self) -> int | None:
        """The number of tokens, or None if an image has no `expected_tokens`."""
        return (
            None
            if any(getattr(chunk, "expected_tokens", 0) is None for chunk in self.chunks)
            else self.length
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read: no chunks, or only text chunks without tokens."""
        return all(
            isinstance(chunk, EncodedTextChunk) and not chunk.length for chunk in self.chunks
        )

    @property
    def tokens_np(self) -> NDArray[np.int64]:
        """All token ids, int64 `(N,)`. Raises `InvalidInputError` unless all chunks are text."""
        parts = [chunk.tokens_np for chunk in self.chunks if isinstance(chunk, EncodedTextChunk)]
        if len(parts) != len(self.chunks):
            raise InvalidInputError("some chunks are not text, so they have no token ids")
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])

    def to_ints(self) -> list[int]:
        """Returns all token ids as a list; raises `InvalidInputError` unless all are text."""
        return self.tokens_np.tolist()


def as_model_input(prompt: ModelInput | ArrayLike | str) -> ModelInput:
    """Returns a `ModelInput` as it is, and makes one from token ids. Raises `InvalidInputError` for
    text, which needs a tokenizer.
    """
    if isinstance(prompt, ModelInput):
        return prompt
    if isinstance(prompt, str):
        raise ArgumentError(
            "the prompt is text, and the model reads tokens",
            advice="Encode it first: client.get_tokenizer().encode(text).",
        )
    return ModelInput.from_ints(prompt)


def _joined(chunks: Sequence[ModelInputChunk]) -> Iterator[ModelInputChunk]:
    for is_text, group in groupby(chunks, lambda chunk: isinstance(chunk, EncodedTextChunk)):
        if is_text:
            yield EncodedTextChunk(
                np.concatenate(
                    [chunk.tokens_np for chunk in group if isinstance(chunk, EncodedTextChunk)]
                )
            )
        else:
            yield from group

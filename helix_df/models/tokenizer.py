"""Text to token ids and back, as the model's own files say.

Owns the tokenizer's surface and how a Hugging Face directory or a made-up vocabulary becomes one. Doesn't know
requests or streams.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from helix_df.errors import ModelError
from helix_df.models.chat import PLAIN_TEMPLATE, ChatTemplate
from helix_df.models.gguf_tokenizer import read_gguf_tokenizer
from helix_df.profiles.read_geometry import locate_gguf, model_directory, read_geometry
from helix_df.spec.source import ModelSource

_BYTES = 256
_MOST_COMPOSED = 4
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """Byte by the character that byte-level vocabularies write for it: printable ones themselves, then from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(_BYTES) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class Codec(Protocol):
    """Text to ids, without special tokens of its own, and back. Special tokens in the text become their ids.

    ``longest_bytes`` is the most text, in UTF-8, that one id may stand for. ``special_ids`` vanish in decoding.
    """

    longest_bytes: int
    special_ids: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""

    def decode(self, ids: Sequence[int], shown: frozenset[str] = frozenset()) -> str:
        """The text of ``ids``; special tokens vanish, but for those of the texts ``shown``."""

    def token_bytes(self, number: int) -> bytes:
        """The bytes that one id stands for wherever it isn't the first; a special token's own text."""


class Tokenizer:
    """A model's tokenizer, with its chat template and what it stops at.

    Args:
        codec: what turns text into ids and back.
        vocab_size: how many ids there are.
        bos_id: put before every prompt; None for models that want none.
        eos_ids: ids that end an answer.
        chat: the chat template.
        bos_in_chats: whether a rendered chat that doesn't begin with ``bos_id`` gets it; a template of the model's own
            writes it itself where it is wanted.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        vocab_size: int,
        bos_id: int | None,
        eos_ids: frozenset[int],
        chat: ChatTemplate,
        bos_in_chats: bool = True,
    ) -> None:
        self._codec = codec
        self.vocab_size = vocab_size
        self.bos_id = bos_id
        self.eos_ids = eos_ids
        self.chat = chat
        self._bos_in_chats = bos_in_chats

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text of an answer."""
        return self._codec.special_ids

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, after the beginning-of-sequence token if the model wants one."""
        ids = self._codec.encode(text)
        return ids if self.bos_id is None else [self.bos_id, *ids]

    def encode_piece(self, text: str) -> list[int]:
        """The ids of a text that stands in the middle of another."""
        return self._codec.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``. Special tokens vanish; bytes that aren't UTF-8 become U+FFFD."""
        return self._codec.decode(ids)

    def decoder(self, shown: frozenset[str]) -> Callable[[Sequence[int]], str]:
        """As ``decode``, but special tokens of these texts stay."""
        return partial(self._codec.decode, shown=shown) if shown else self.decode

    def render_chat(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The prompt for ``messages``; see ``ChatTemplate.render``."""
        return self.chat.render(messages, add_generation_prompt=add_generation_prompt)

    def encode_rendered(self, text: str) -> list[int]:
        """The ids of a rendered chat; a template that writes the beginning-of-sequence token gets no second one."""
        ids = self._codec.encode(text)
        complete = self.bos_id is None or not self._bos_in_chats or ids[:1] == [self.bos_id]
        return ids if complete else [self.bos_id or 0, *ids]

    def token_bytes(self, number: int) -> bytes:
        """The bytes that one id stands for in the middle of a text; a special token's own text."""
        return self._codec.token_bytes(number)

    def fewest_tokens(self, size: int) -> int:
        """The fewest tokens that a text of ``size`` bytes in UTF-8 can come to."""
        return -(-size // self._codec.longest_bytes)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> list[int]:
        """The ids of the rendered chat; see ``encode_rendered``."""
        return self.encode_rendered(self.render_chat(messages, add_generation_prompt=add_generation_prompt))


class LibraryCodec:
    """A ``tokenizers.Tokenizer`` as a codec."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._added = {number: str(token.content) for number, token in added.items()}
        self.special_ids = frozenset(number for number, token in added.items() if token.special)
        decoder = b"" if tokenizer.decoder is None else tokenizer.decoder.__getstate__()
        self._by_bytes = b'"ByteLevel"' in decoder
        longest = max((len(token.encode("utf-8")) for token in tokenizer.get_vocab()), default=1)
        # Normalizing may make a text shorter, as composing characters does.
        self.longest_bytes = max(longest, 1) * (1 if tokenizer.normalizer is None else _MOST_COMPOSED)

    def encode(self, text: str) -> list[int]:
        """See ``Codec``."""
        # A batch of one lets other threads run meanwhile; a single text would hold them all up, for seconds if long.
        (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: Sequence[int], shown: frozenset[str] = frozenset()) -> str:
        """See ``Codec``."""
        kept = list(ids)
        if shown:
            kept = [number for number in ids if number not in self.special_ids or self._added[number] in shown]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=not shown)
        return text

    def token_bytes(self, number: int) -> bytes:
        """See ``Codec``."""
        if number in self._added:
            return self._added[number].encode()
        token = self._tokenizer.id_to_token(number)
        if token is None:
            return b""
        if self._by_bytes:
            return bytes(_BYTE_OF[character] for character in token if character in _BYTE_OF)
        byte = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte is not None else token.replace("\u2581", " ").encode()


class ByteCodec:
    """Ids 0 to 255 are bytes. ``specials`` vanish in decoding, other ids read as U+FFFD."""

    longest_bytes = 1

    def __init__(self, specials: frozenset[int]) -> None:
        self.special_ids = specials

    def encode(self, text: str) -> list[int]:
        """See ``Codec``."""
        return list(text.encode("utf-8"))

    def decode(self, ids: Sequence[int], shown: frozenset[str] = frozenset()) -> str:
        """See ``Codec``."""
        kept = (number for number in ids if number not in self.special_ids)
        raw = b"".join(bytes([number]) if number < _BYTES else _UNKNOWN.encode("utf-8") for number in kept)
        return raw.decode("utf-8", errors="replace")

    def token_bytes(self, number: int) -> bytes:
        """See ``Codec``."""
        return bytes([number]) if number < _BYTES else b"" if number in self.special_ids else _UNKNOWN.encode()


def load_tokenizer(source: ModelSource, base: Path | None = None) -> Tokenizer:
    """The tokenizer that comes with ``source``; ``random:`` models get a byte-level one.

    Raises:
        ModelError: when its files are missing or not understood.
    """
    if source.kind == "hf":
        return _from_directory(model_directory(source, base))
    if source.kind == "random":
        return _bytes_tokenizer(read_geometry(source, base).vocab_size)
    found = read_gguf_tokenizer(locate_gguf(source, base))
    chat = ChatTemplate(found.chat_template or PLAIN_TEMPLATE, bos_token=found.bos_token, eos_token=found.eos_token)
    return Tokenizer(
        LibraryCodec(found.tokenizer),
        vocab_size=found.tokenizer.get_vocab_size(),
        bos_id=found.bos_id if found.add_bos else None,
        eos_ids=found.eos_ids,
        chat=chat,
    )


def _bytes_tokenizer(vocab_size: int) -> Tokenizer:
    """Bytes, then beginning and end of sequence."""
    bos, eos = _BYTES, _BYTES + 1
    if vocab_size <= eos:
        raise ModelError(
            "the vocabulary is too small for random text", found=vocab_size, expected=f"at least {eos + 1} tokens"
        )
    return Tokenizer(
        ByteCodec(frozenset({bos, eos})),
        vocab_size=vocab_size,
        bos_id=bos,
        eos_ids=frozenset({eos}),
        chat=ChatTemplate(PLAIN_TEMPLATE),
    )


def _from_directory(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a missing or malformed file
        raise ModelError(
            "the tokenizer can't be read",
            where=str(path),
            found=str(error),
            expected="a tokenizer.json (a tokenizer.model alone isn't read)",
        ) from error
    config = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
    _add_tokens(tokenizer, folder, config)
    bos, eos = _token_text(config.get("bos_token")), _token_text(config.get("eos_token"))
    specials = {name: _token_text(entry) for name, entry in config.items() if name.endswith("_token") and entry}
    template = _template_text(folder, config)
    return Tokenizer(
        LibraryCodec(tokenizer),
        vocab_size=1 + max(tokenizer.get_vocab().values(), default=-1),
        bos_id=_wanted_bos(tokenizer, config, bos),
        eos_ids=_eos_ids(folder, tokenizer, eos),
        chat=ChatTemplate(template or PLAIN_TEMPLATE, bos_token=bos, eos_token=eos, specials=specials),
        bos_in_chats=template is None,
    )


def _add_tokens(tokenizer: tokenizers.Tokenizer, folder: Path, config: Mapping[str, Any]) -> None:
    """Add what the tokenizer's config names beside ``tokenizer.json``, at the ids that it says.

    Raises:
        ModelError: when such an id is taken.
    """
    listed = {int(number): entry for number, entry in (config.get("added_tokens_decoder") or {}).items()}
    if not listed:
        listed = {int(number): {"content": text} for text, number in _read_json(folder / "added_tokens.json").items()}
    known = tokenizer.get_added_tokens_decoder()
    for number, entry in sorted(listed.items()):
        if number in known:
            continue
        flags = {name: bool(entry[name]) for name in ("lstrip", "rstrip", "normalized", "single_word") if name in entry}
        special = bool(entry.get("special", True))
        token = tokenizers.AddedToken(str(entry["content"]), **{"normalized": not special, **flags}, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
        if tokenizer.token_to_id(token.content) != number:
            raise ModelError(
                "the tokenizer's files disagree about the id of a token",
                where=str(folder),
                found=f"{token.content}: {tokenizer.token_to_id(token.content)} after tokenizer.json",
                expected=f"{number}, as tokenizer_config.json says",
            )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError("this file of the model can't be read", where=str(path), found=str(error)) from error


def _token_text(entry: Any) -> str:
    """A special token's text, given as text or as an object with ``content``."""
    return str(entry.get("content", "")) if isinstance(entry, dict) else str(entry or "")


def _wanted_bos(tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any], bos: str) -> int | None:
    """The id that the tokenizer's own post-processor puts first, or the one that its config asks for."""
    bos_id: int | None = tokenizer.token_to_id(bos) if bos else None
    written: list[int] = tokenizer.encode("", add_special_tokens=True).ids
    if bos_id is not None and written[:1] == [bos_id]:
        return bos_id
    return bos_id if config.get("add_bos_token") else None


def _eos_ids(folder: Path, tokenizer: tokenizers.Tokenizer, eos: str) -> frozenset[int]:
    """What ``generation_config.json`` says, else ``config.json``, and the tokenizer's own end in any case."""
    eos_id = tokenizer.token_to_id(eos) if eos else None
    own = frozenset() if eos_id is None else frozenset({eos_id})
    for name in ("generation_config.json", "config.json"):
        listed = _read_json(folder / name).get("eos_token_id")
        if listed is not None:
            return own | frozenset(listed if isinstance(listed, list) else [listed])
    return own


def _template_text(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The model's own template, if it has one."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    template = config.get("chat_template") or None
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return None if template is None else str(template)

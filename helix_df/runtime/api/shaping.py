"""Fields of a request that shape what is drawn: penalties, biases, and what must not come or ends an answer.

Owns their names and ranges, most of them vLLM's. What they mean in tokens is the text service's to find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from helix_df.models.streaming_text import StopRule
from helix_df.runtime.api.field_types import Strings, TokenIds
from helix_df.runtime.api.refusals import invalid
from helix_df.runtime.api.request_body import RequestBody
from helix_df.runtime.sampling import MOST_BAD_WORDS, MOST_BIASES, Shaping

if TYPE_CHECKING:
    from helix_df.models.tokenizer import Tokenizer


MAX_STOPS = 4
MAX_STOP_IDS = 128


@dataclass(frozen=True, slots=True)
class Wishes:
    """How tokens are to be drawn, beyond temperature and the like, and what ends an answer.

    Of ``shaping`` the ``bad_words`` are still text, and what is held back for ``min_tokens`` isn't known yet.
    """

    shaping: Shaping | None = None
    bad_words: tuple[str, ...] = ()
    stop: StopRule = field(default_factory=StopRule)
    stop_ids: tuple[int, ...] = ()

    @classmethod
    def ended_by(cls, texts: Sequence[str]) -> Wishes:
        """None but that these texts end an answer."""
        return cls(stop=StopRule(tuple(texts)))


PLAINLY = Wishes()


def _few(value: object) -> object:
    """A value that isn't an object of more than so many: nobody reads an error for each of a million."""
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        raise ValueError("too many")
    return value


Biases = Annotated[dict[str, float], BeforeValidator(_few)]


class ShapingBody(RequestBody):
    """What all bodies that generate take of that."""

    presence_penalty: float = Field(0.0, ge=-2, le=2, description="a number from -2 to 2")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="a number from -2 to 2")
    repetition_penalty: float = Field(1.0, gt=0, le=100, description="a number over 0, up to 100; 1 changes nothing")
    min_p: float = Field(0.0, ge=0, le=1, description="a number from 0 to 1")
    logit_bias: Biases = Field({}, description=f"an object of up to {MOST_BIASES} token ids, each with -100 to 100")
    min_tokens: int = Field(0, ge=0, description="a whole number, not more than the answer may have")
    bad_words: Strings = Field(
        [], max_length=MOST_BAD_WORDS, description=f"a list of up to {MOST_BAD_WORDS} strings, none of which is empty"
    )
    stop: str | Strings = Field([], description=f"a string or a list of up to {MAX_STOPS} strings")
    stop_token_ids: TokenIds = Field(
        [], max_length=MAX_STOP_IDS, description=f"a list of up to {MAX_STOP_IDS} token ids"
    )
    include_stop_str_in_output: bool = Field(False, description="true or false")

    def wishes(self) -> Wishes:
        """All of these in one.

        Raises:
            RequestError: for a bias of what isn't a token id, or out of range.
        """
        shaping = Shaping(
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=tuple(sorted((_token_id(name), bias) for name, bias in self.logit_bias.items())),
            min_tokens=self.min_tokens,
        )
        texts = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return Wishes(
            shaping=shaping if shaping.edits or shaping.min_p else None,
            bad_words=tuple(self.bad_words),
            stop=StopRule(texts, self.include_stop_str_in_output, self.min_tokens),
            stop_ids=tuple(self.stop_token_ids),
        )


def _token_id(name: str) -> int:
    if not (name.isascii() and name.isdecimal() and len(name) < 10):
        raise invalid("logit_bias", "expected token ids as names")
    return int(name)


def shaping_in_tokens(
    wishes: Wishes, tokenizer: Tokenizer, stop_ids: frozenset[int], max_tokens: int
) -> Shaping | None:
    """What shapes the draws of a request, in the model's tokens.

    Raises:
        RequestError: for a token that the model doesn't know, a word that isn't text, or too few tokens.
    """
    shaping = wishes.shaping or Shaping()
    for name, ids in (("logit_bias", [token for token, _ in shaping.logit_bias]), ("stop_token_ids", wishes.stop_ids)):
        if any(not 0 <= token < tokenizer.vocab_size for token in ids):
            raise invalid(name, f"expected token ids of this model, 0 to {tokenizer.vocab_size - 1}")
    if shaping.min_tokens > max_tokens:
        raise invalid("min_tokens", f"the answer may have {max_tokens} tokens")
    words = tuple(dict.fromkeys(ids for word in wishes.bad_words for ids in _bad_word(word, tokenizer)))
    held_back = tuple(sorted(stop_ids)) if shaping.min_tokens else ()
    shaping = replace(shaping, bad_words=words, held_back=held_back)
    return shaping if shaping.edits or shaping.min_p else None


def _bad_word(word: str, tokenizer: Tokenizer) -> Iterator[tuple[int, ...]]:
    """A word at the beginning of a text and, where that is one token for another, within one, as vLLM has them."""
    bare = word.lstrip()
    if not bare:
        raise invalid("bad_words", "expected words, none of which is empty")
    try:
        bare.encode("utf-8")
    except UnicodeEncodeError as error:
        raise invalid("bad_words", "expected Unicode text") from error
    first = tuple(tokenizer.encode_piece(bare))
    within = tuple(tokenizer.encode_piece(f" {bare}"))
    yield first
    if len(within) == len(first) and within[0] != first[0]:
        yield within

"""Compiles constraints for a tokenizer: which tokens may come next, as bits.

Owns the way from a ``Constraint`` to an ``LLMatcher``, its bounds, and words for what can't be compiled. Doesn't know
requests; what follows which token is up to whoever holds a matcher. Any thread may use it.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from helix_df.errors import RequestError
from helix_df.runtime.constraints import Constraint

if TYPE_CHECKING:
    from helix_df.models.tokenizer import Tokenizer


MOST_KEPT = 64
"""Compiled constraints that are kept, those used last."""

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000, max_grammar_size=200_000, max_lexer_states=100_000, verbose_errors=False
)
"""Of one constraint: some 20 ms for its expressions, some 100 ms for its rules, some 100 MB for what it comes to."""

SEARCH_S = 0.5
"""So long is looked for the part of a schema that can't be compiled."""

MOST_WORDS = 300
"""Characters of the compiler's own words that an error repeats."""

_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SINGLE = ("items", "additionalProperties", "additionalItems", "not", "contains", "propertyNames", "if", "then", "else")


class Grammars:
    """Compiled constraints of one tokenizer.

    Args:
        load: gives the tokenizer, once it is needed: its vocabulary takes a moment to read.
    """

    def __init__(self, load: Callable[[], Tokenizer]) -> None:
        self._load = load
        self._loading = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[Constraint, LLMatcher] = OrderedDict()

    @property
    def tokenizer(self) -> LLTokenizer:
        """The vocabulary as the compiler needs it.

        Raises:
            RequestError: for a model without an end, which couldn't end an answer.
        """
        with self._loading:
            if self._tokenizer is None:
                self._tokenizer = _vocabulary(self._load())
            return self._tokenizer

    def matcher(self, constraint: Constraint) -> LLMatcher:
        """A matcher at the beginning of an answer, the caller's own.

        Raises:
            RequestError: when the constraint can't be compiled; ``param`` is the way to the part at fault.
        """
        kept = self._kept.get(constraint)
        if kept is None:
            kept = self._compiled(constraint)
            self._kept[constraint] = kept
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return kept.deep_copy()

    def _compiled(self, constraint: Constraint) -> LLMatcher:
        tokenizer = self.tokenizer
        matcher, why = _compile(tokenizer, constraint.kind, constraint.text)
        if matcher is not None:
            return matcher
        where = _where(tokenizer, json.loads(constraint.text), why) if constraint.kind == "json_schema" else ""
        raise RequestError(
            f"the {_WORDS[constraint.kind]} can't be compiled: {_first_words(why)}",
            param=where or None,
            code="invalid_constraint",
        )


_WORDS = {"json_schema": "JSON Schema", "regex": "regular expression", "lark": "grammar"}


class _Vocabulary:
    """What ``TokenizerWrapper`` asks for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = min(tokenizer.eos_ids)
        self.bos_token_id = tokenizer.bos_id
        specials = tokenizer.special_ids | tokenizer.eos_ids
        self.tokens = [tokenizer.token_bytes(number) for number in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(specials)
        self._tokenizer = tokenizer
        plain = (number for number in range(tokenizer.vocab_size) if number not in specials)
        self._by_bytes = {self.tokens[number]: number for number in reversed(list(plain)) if self.tokens[number]}
        self._longest = max(map(len, self._by_bytes), default=1)

    def __call__(self, text: str) -> list[int]:
        """Ids whose bytes are exactly those of ``text``: the tokenizer's own, unless it adds something."""
        ids, raw = self._tokenizer.encode_piece(text), text.encode("utf-8")
        return ids if b"".join(self.tokens[number] for number in ids) == raw else self._greedily(raw)

    def _greedily(self, raw: bytes) -> list[int]:
        """The longest token first; up to where no token goes on."""
        ids: list[int] = []
        while raw:
            size = next((n for n in range(min(self._longest, len(raw)), 0, -1) if raw[:n] in self._by_bytes), 0)
            if not size:
                break
            ids.append(self._by_bytes[raw[:size]])
            raw = raw[size:]
        return ids


def _vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    if not tokenizer.eos_ids:
        raise RequestError("this model has no token that ends an answer, so that none can be constrained")
    wrapper = TokenizerWrapper(_Vocabulary(tokenizer))
    return LLTokenizer(wrapper, n_vocab=tokenizer.vocab_size, eos_token=sorted(tokenizer.eos_ids))


def _compile(tokenizer: LLTokenizer, kind: str, text: str) -> tuple[LLMatcher | None, str]:
    """A matcher, or None and why there is none."""
    try:
        match kind:
            case "json_schema":
                grammar = LLMatcher.grammar_from_json_schema(text)
            case "regex":
                grammar = LLMatcher.grammar_from_regex(text)
            case _:
                grammar = LLMatcher.grammar_from_lark(text)
    except ValueError as error:
        return None, str(error)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    return (None, matcher.get_error()) if matcher.is_error() else (matcher, "")


def _first_words(why: str) -> str:
    words = " ".join(why.split())
    return words if len(words) <= MOST_WORDS else f"{words[:MOST_WORDS]}…"


def _where(tokenizer: LLTokenizer, schema: dict[str, Any], why: str) -> str:
    """The way to the smallest part of a schema that fails in the same words; empty for all of it."""
    shared = {name: schema[name] for name in ("$defs", "definitions", "x-guidance") if name in schema}
    until = time.monotonic() + SEARCH_S
    way, part = "", schema
    while True:
        for step, child in _parts(part):
            if time.monotonic() > until:
                return way
            if _compile(tokenizer, "json_schema", json.dumps({**shared, **child}))[1] == why:
                way, part = f"{way}{step}", child
                break
        else:
            return way


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas right inside one, with the step to each."""
    for keyword, value in schema.items():
        if keyword in _MAPS and isinstance(value, dict):
            yield from ((f".{keyword}.{name}", one) for name, one in value.items() if isinstance(one, dict))
        elif keyword in _LISTS and isinstance(value, list):
            yield from ((f".{keyword}[{at}]", one) for at, one in enumerate(value) if isinstance(one, dict))
        elif keyword in _SINGLE and isinstance(value, dict):
            yield f".{keyword}", value


def follows(matcher: LLMatcher, tokens: Sequence[int]) -> bool:
    """Whether a matcher takes tokens, one after another; it is past them then."""
    return not tokens or bool(matcher.consume_tokens(list(tokens)))

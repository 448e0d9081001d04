"""Log-probabilities of a prompt's tokens as text: what ``echo`` with ``logprobs`` and ``prompt_logprobs`` say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from helix_df.models.streaming_text import StreamDecoder
from helix_df.runtime.api.text_pieces import PromptToken, TopToken, readable
from helix_df.runtime.requests import ScoredToken

if TYPE_CHECKING:
    from helix_df.models.tokenizer import Tokenizer


Json = dict[str, Any]


def prompt_tokens(tokenizer: Tokenizer, ids: Sequence[int], scores: Sequence[ScoredToken]) -> tuple[PromptToken, ...]:
    """The tokens of a prompt, with the scores of all but its first."""
    decoder = StreamDecoder(tokenizer.decode)
    texts = [decoder.push(token) for token in ids]
    texts[-1] += decoder.finish()
    found: list[PromptToken] = []
    offset = 0
    for token, text, score in zip(ids, texts, (None, *scores), strict=True):
        if score is None:
            found.append(PromptToken(token, text, offset))
        else:
            top = tuple(_likely(tokenizer, *one) for one in score.top)
            found.append(PromptToken(token, text, offset, score.logprob, score.rank, top))
        offset += len(text)
    return tuple(found)


def _likely(tokenizer: Tokenizer, token: int, logprob: float) -> TopToken:
    raw = tokenizer.token_bytes(token)
    return TopToken(token, readable(raw), raw, logprob)


def as_vllm_has_them(tokens: Sequence[PromptToken]) -> list[Json | None]:
    """``prompt_logprobs``: by each token's id, its own and those of the likeliest."""
    return [None if token.logprob is None else _by_id(token) for token in tokens]


def _by_id(token: PromptToken) -> Json:
    found = {str(one.id): _entry(one.logprob, rank, one.text) for rank, one in enumerate(token.top, 1)}
    own = {str(token.id): _entry(token.logprob, token.rank, token.text)}
    return own | found


def _entry(logprob: float | None, rank: int | None, text: str) -> Json:
    return {"logprob": logprob, "rank": rank, "decoded_token": text}

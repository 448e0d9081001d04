"""Why the coordinator refuses or gives up a request, in the words and codes that its client gets.

Doesn't decide: ``rules.admission`` and ``requests_state`` do.
"""

from __future__ import annotations

from helix_df.errors import RequestError
from helix_df.rules.admission import KEY_QUEUE_FULL, NO_PATH, QUEUE_FULL, TOO_LARGE
from helix_df.rules.retries import MOST_REJECTIONS
from helix_df.runtime.requests import GenerationRequest

MOST_ID = 256
"""Characters of a request's id, so that its attempts have names that messages take."""


def check_request(asked: GenerationRequest, *, is_served: bool) -> None:
    """Refuse what no job could serve, and an id that ``is_served`` already.

    Raises:
        RequestError: with the field at fault.
    """
    if not asked.prompt:
        raise RequestError("the prompt has no tokens", param="prompt")
    if asked.max_tokens < 0:
        raise RequestError("max_tokens must not be negative", param="max_tokens", found=str(asked.max_tokens))
    if asked.sampling.pooling is not None and asked.max_tokens:
        raise RequestError("whoever asks for hidden states gets no tokens", param="max_tokens", expected="0")
    if len(asked.id) > MOST_ID:
        raise RequestError("the request's id is too long", param="id", expected=f"at most {MOST_ID} characters")
    if is_served:
        raise RequestError("a request of this id is being served", param="id", found=asked.id)


def check_arrival(verdict: int, asked: GenerationRequest, context: int, room: int) -> None:
    """Refuse what this job can't serve, or not now.

    Args:
        verdict: what ``rules.admission.on_arrival`` makes of it.
        asked: the request.
        context: tokens that prompt and answer may have together.
        room: tokens of the largest KV cache.

    Raises:
        RequestError: with what would fit, or when to try again.
    """
    most = len(asked.prompt) + asked.max_tokens
    if verdict == NO_PATH:
        raise RequestError("the job is not ready", code="not_ready", status=503, hint="ask /health")
    if most > context:
        raise RequestError(
            f"prompt ({len(asked.prompt)} tokens) and answer ({asked.max_tokens}) exceed the context",
            param="max_tokens",
            code="context_length_exceeded",
            expected=f"at most {context} tokens together",
        )
    if verdict == TOO_LARGE:
        raise RequestError(
            f"a request of {most} tokens doesn't fit the KV cache of any pipeline",
            param="max_tokens",
            code="kv_cache_exceeded",
            expected=f"at most {room} tokens, prompt and answer together",
        )
    if verdict == QUEUE_FULL:
        raise RequestError("too many requests wait", code="queue_full", status=429, hint="try again later")
    if verdict == KEY_QUEUE_FULL:
        raise RequestError(
            "too many requests of this API key wait", code="key_queue_full", status=429, hint="try again later"
        )


def too_late(generated: int) -> RequestError:
    """A request whose deadline has passed, after so many tokens of its answer."""
    return RequestError(
        "the request's deadline has passed",
        code="timeout",
        status=504,
        found=f"{generated} tokens of the answer so far",
        hint="a longer timeout, fewer max_tokens, or streaming to keep what there is",
    )


def unavailable(why: str) -> RequestError:
    """A request that can't be served now, and why."""
    return RequestError(why, code="unavailable", status=503, hint="try again once /health is ok")


def not_finite(node: str) -> RequestError:
    """A request for which a node computed what isn't a number."""
    return RequestError(
        f"node {node} computed numbers that aren't finite (NaN or infinity) for this request",
        code="not_finite",
        status=500,
        hint="weights that are damaged, or that overflow in this model.dtype",
    )


def stuck() -> RequestError:
    """A request whose constraint couldn't be followed to its end."""
    return RequestError(
        "the constraint of this answer allows no next token here, or became too complex to follow",
        code="constraint_stuck",
        hint="a simpler schema, expression or grammar",
    )


def malformed() -> RequestError:
    """A request whose messages were refused again and again."""
    return RequestError(
        f"messages between this request's workers were damaged at the last of {MOST_REJECTIONS} tries",
        code="malformed",
        status=503,
        hint="the logs say what was wrong with them; are all workers of the same release?",
    )


def steps_lost() -> RequestError:
    """A request whose messages got lost again and again."""
    return RequestError(
        f"messages between this request's workers got lost at each of {MOST_REJECTIONS} tries",
        code="lost",
        status=503,
        hint="can all of the job's hosts reach one another? `helix-df probe` tries each link",
    )


def no_room() -> RequestError:
    """A request that was tried often enough."""
    return RequestError(
        f"the KV cache was full at each of {MOST_REJECTIONS} tries",
        code="kv_cache_full",
        status=503,
        hint="try again later; with a larger runtime.expected_output fewer requests run at once",
    )

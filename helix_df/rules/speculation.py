"""How many drafted tokens a decode step should carry behind the known one, to be verified in the same pass. Pure.

Used by the runtime and the simulator alike; plain numbers in and out. Doesn't know requests, drafters or clocks.

A round carries ``k`` drafted tokens of a request through all stages. They are kept up to the first that isn't what is
drawn there, and what is drawn instead is kept, too: one token at least, ``k + 1`` at most.
"""

from __future__ import annotations

KEEP = 0.9
"""What a verified token leaves of the estimate before it: an estimate is that of about the last ten."""

LEAST_SHARE = 1 / 64
"""Of a step of one token that each further one takes at least: what is less was timed badly."""

MOST_DRAFTS = 15
"""Tokens that may be drafted for a step: with the known one they fill a pass of 16 columns."""


def expected_tokens(drafts: int, acceptance: float) -> float:
    """Tokens that a step with ``drafts`` drafted ones gives: ``(1 - a^(k+1)) / (1 - a)``.

    Source: Leviathan et al. (arXiv 2211.17192), equation 1.

    Args:
        drafts: drafted tokens, 0 for a plain step.
        acceptance: probability that a drafted token is right, given that those before it were.
    """
    if acceptance >= 1.0:
        return drafts + 1.0
    return (1.0 - acceptance ** (drafts + 1)) / (1.0 - acceptance)


def draft_tokens(acceptance: float, rows: float, base_s: float, token_s: float, most: int) -> int:
    """Drafts a step that give the most expected tokens a second; 0 where none gains. Of equals the fewest.

    Args:
        acceptance: as for ``expected_tokens``.
        rows: requests whose steps run in the same passes, each with as many drafts.
        base_s: once around the pipeline without drafts, networks too.
        token_s: what each drafted token of each row adds.
        most: drafts that a step may have.
    """
    best, best_tokens, best_s = 0, 1.0, base_s
    for drafts in range(1, most + 1):
        tokens = expected_tokens(drafts, acceptance)
        around_s = base_s + rows * drafts * token_s
        if tokens * best_s > best_tokens * around_s:
            best, best_tokens, best_s = drafts, tokens, around_s
    return best


def further_token_s(prefill_s: float, tokens: int, decode_s: float) -> float:
    """Seconds that each token more adds to a decode step, by what was timed.

    Args:
        prefill_s: of a prompt of so many ``tokens``, more than one.
        decode_s: of a step of one token.
    """
    return max((prefill_s - decode_s) / (tokens - 1), LEAST_SHARE * decode_s)


def learned_acceptance(acceptance: float, drafted: int, accepted: int) -> float:
    """The estimate of the acceptance after a step: each verified token counts as much as ``1 - KEEP``.

    Where drafting doesn't gain, the first token of what would have been drafted is compared all the same with the one
    that comes (``drafted`` 1, ``accepted`` 0 or 1): so an estimate rises again with the text, and nothing is computed
    to find that out.

    Args:
        acceptance: the estimate so far, or what is expected of a request that has no steps yet.
        drafted: tokens drafted for the step.
        accepted: how many of them were right, up to the first that wasn't.
    """
    right = 1.0 - (1.0 - acceptance) * KEEP**accepted
    return right if accepted == drafted else right * KEEP

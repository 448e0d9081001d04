"""The rules that runtime and simulator share, each by itself."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from helix_df.rules.admission import NO_PATH, QUEUE_FULL, STRANDED, TOO_LARGE, WAITS, admits, expected_kv, on_arrival
from helix_df.rules.batching import piece_tokens, takes_decodes, takes_piece
from helix_df.rules.pages import more_pages, pages_for
from helix_df.rules.retries import FIRST_BACKOFF_S, MOST_REJECTIONS, backoff_s, gives_up
from helix_df.rules.sending import HOLD_UP_S, goes_apart, passes

TOKENS = st.integers(1, 5000)


@given(TOKENS, st.integers(3, 600))
def test_pieces_make_up_the_prompt_and_none_looks_like_a_decode_step(prompt, longest):
    pieces: list[int] = []
    while sum(pieces) < prompt:
        pieces.append(piece_tokens(prompt - sum(pieces), longest))
    assert sum(pieces) == prompt
    assert len(pieces) == -(-prompt // longest), "no more pieces than it takes"
    assert all(1 < piece <= longest for piece in pieces) or pieces == [1]


@given(TOKENS, TOKENS, TOKENS, TOKENS, st.booleans())
def test_expected_use_is_what_a_request_has_at_least_and_what_it_can_come_to_at_most(
    prompt, generated, answer, more, cautious
):
    most = prompt + generated + more
    expected = expected_kv(prompt + generated, prompt, answer, most, cautious)
    assert prompt + generated <= expected <= most
    assert expected == most if cautious else expected in (most, prompt + generated, prompt + answer)


@given(TOKENS, TOKENS, TOKENS, st.floats(0.1, 1.0), st.integers(0, 5000))
def test_a_node_is_never_expected_to_overfill(expected, more, capacity, high_water, used):
    if admits(used, expected, expected + more, capacity, high_water):
        assert expected + more <= capacity
        assert used == 0 or used + expected <= capacity
    assert admits(0, expected, expected, expected, high_water), "what fits an empty node enters it"


@given(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 9), st.integers(1, 9))
def test_whoever_fits_waits_now_or_later_and_the_others_are_told_why(serves, fits, fits_whole, waiting, max_queue):
    verdict = on_arrival(serves, fits, fits_whole, waiting, max_queue, True)
    ever, room = fits or fits_whole, waiting < max_queue
    assert (verdict == NO_PATH) == (not serves)
    assert (verdict == TOO_LARGE) == (serves and not ever)
    assert (verdict == QUEUE_FULL) == (serves and ever and not room)
    assert (verdict == WAITS) == (serves and fits and room)
    assert (verdict == STRANDED) == (serves and ever and not fits and room)


@given(st.lists(TOKENS, min_size=1), st.integers(1, 16), st.integers(16, 600))
def test_a_batch_keeps_to_its_budget_but_for_a_single_longer_piece(pieces, max_batch, budget):
    taken: list[int] = []
    for piece in pieces:
        if not takes_piece(piece, False, max_batch - len(taken), 0, sum(taken), budget):
            break
        taken.append(piece)
    assert taken, "somebody always goes"
    assert len(taken) <= max_batch
    assert sum(taken) <= budget or len(taken) == 1
    assert not takes_piece(1, True, 1, 0, 0, budget), "of a prompt one piece at a time"


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.booleans())
def test_only_those_who_enter_their_pipeline_here_keep_to_a_share(waiting, room, share, enters):
    assert takes_decodes(waiting, room, share, enters) == min(waiting, room, *([share] if enters else []))


@given(st.lists(TOKENS, min_size=1), st.integers(1, 64))
def test_pages_taken_step_by_step_are_those_of_the_whole(steps, page_tokens):
    at, pages = 0, 0
    for step in steps:
        pages += more_pages(at, at + step, page_tokens)
        at += step
    assert pages == pages_for(at, page_tokens)
    assert (pages - 1) * page_tokens < at <= pages * page_tokens


def test_back_off_doubles_and_ends():
    waits = [backoff_s(rejections) for rejections in range(1, MOST_REJECTIONS)]
    assert waits[0] == FIRST_BACKOFF_S
    assert all(after == 2 * before for before, after in pairwise(waits))
    assert [gives_up(rejections) for rejections in range(1, MOST_REJECTIONS + 1)] == [False] * len(waits) + [True]


@given(st.floats(1, 1e9), st.lists(st.floats(1, 1e6), min_size=1, max_size=50))
def test_a_piece_lets_pass_its_own_size_and_one_message_more_at_most(piece, others):
    passed = 0.0
    for other in others:
        if not passes(passed, piece):
            break
        passed += other
    assert passed < piece + max(others)
    assert passes(0.0, piece), "decode steps go first"


@given(TOKENS, st.floats(2, 65536), st.floats(1e3, 1e11))
def test_prompts_go_apart_where_they_would_hold_decode_steps_up(tokens, token_bytes, bytes_per_s):
    apart = goes_apart(tokens, token_bytes, bytes_per_s)
    assert apart == (tokens * token_bytes > HOLD_UP_S * bytes_per_s)
    assert goes_apart(tokens, token_bytes, bytes_per_s / 2) or not apart, "a slower link needs it more"

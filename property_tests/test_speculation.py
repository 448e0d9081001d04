"""Drafts by lookup are what a search through all of the text finds; how many are worth it is what counting says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helix_df.rules.speculation import KEEP, MOST_DRAFTS, draft_tokens, expected_tokens, learned_acceptance
from helix_df.runtime.coordinator.drafters.lookup import MOST_PLACES, LookupDrafter, LookupOptions

SHARES = st.floats(0, 1)
TEXTS = st.lists(st.integers(0, 3), max_size=40)


def searched(tokens: list[int], shortest: int, longest: int, most: int) -> tuple[int, ...]:
    """The longest of the last tokens that stood before, the last place of those, and what followed there."""
    for length in range(longest, shortest - 1, -1):
        for place in range(len(tokens) - 1, length - 1, -1):
            if tokens[place - length : place] == tokens[len(tokens) - length :]:
                text = list(tokens)
                for at in range(most):
                    text.append(text[place + at])
                return tuple(text[len(tokens) :])
    return ()


@given(tokens=TEXTS, cuts=st.lists(st.integers(0, 40)), shortest=st.integers(1, 3), more=st.integers(0, 3))
def test_a_lookup_finds_the_longest_match(tokens: list[int], cuts: list[int], shortest: int, more: int) -> None:
    drafter = LookupDrafter(LookupOptions(shortest=shortest, longest=shortest + more))
    before = 0
    for cut in sorted({*(cut for cut in cuts if cut < len(tokens)), len(tokens)}):
        drafter.extend(tokens[before:cut])
        before = cut
        found = drafter.draft(6)
        assert len(found) in (0, 6)
        if tokens[:cut].count(tokens[cut - 1] if cut else 0) <= MOST_PLACES:
            assert found == searched(tokens[:cut], shortest, shortest + more, 6)


def test_a_text_of_one_word_is_looked_up_in_a_few_places_alone() -> None:
    drafter = LookupDrafter(LookupOptions(shortest=1, longest=64))
    drafter.extend([1, 2] * 1000 + [1])
    assert drafter.draft(3) == (2, 1, 2)


@given(acceptance=SHARES, drafts=st.integers(0, MOST_DRAFTS))
def test_expected_tokens_are_the_sum_over_how_far_drafts_are_right(acceptance: float, drafts: int) -> None:
    exact = [acceptance**right * (1 - acceptance) * (right + 1) for right in range(drafts)]
    exact.append(acceptance**drafts * (drafts + 1))
    assert abs(expected_tokens(drafts, acceptance) - sum(exact)) < 1e-6 * (drafts + 1)


@given(
    acceptance=SHARES, rows=st.integers(1, 64), base=st.floats(1e-4, 1), token=st.floats(0, 1), most=st.integers(0, 15)
)
def test_no_other_number_of_drafts_gives_more(
    acceptance: float, rows: int, base: float, token: float, most: int
) -> None:
    def rate(drafts: int) -> float:
        return expected_tokens(drafts, acceptance) / (base + rows * drafts * token)

    found = draft_tokens(acceptance, rows, base, token, most)
    assert 0 <= found <= most
    assert all(rate(found) >= rate(other) * (1 - 1e-9) for other in range(most + 1))
    assert found == 0 or rate(found) > rate(0)


@given(acceptance=SHARES, steps=st.lists(st.tuples(st.integers(1, 15), st.integers(0, 15)), max_size=30))
def test_an_estimate_is_a_mean_that_forgets(acceptance: float, steps: list[tuple[int, int]]) -> None:
    expected = acceptance
    for drafted, right in steps:
        accepted = min(drafted, right)
        acceptance = learned_acceptance(acceptance, drafted, accepted)
        for verified in [1.0] * accepted + [0.0] * (accepted < drafted):
            expected = KEEP * expected + (1 - KEEP) * verified
    assert 0 <= acceptance <= 1
    assert abs(acceptance - expected) < 1e-9

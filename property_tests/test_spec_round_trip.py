"""Whatever a job says, it says the same after being written and read again; and no text crashes the loader."""

import json
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helix_df.errors import SpecError
from helix_df.load import parse_job
from helix_df.spec.job import Job
from helix_df.spec.units import (
    UnitError,
    format_bandwidth,
    format_compute,
    format_duration,
    format_size,
    parse_bandwidth,
    parse_compute,
    parse_duration,
    parse_size,
)

positive = st.floats(min_value=1e-12, max_value=1e24, allow_nan=False)
sizes = st.one_of(positive, st.integers(1, 2**50).map(float), st.integers(1, 4096).map(lambda n: n * 2.0**30))
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True).filter(lambda name: name != "coordinator")


@given(sizes)
@example(16 * 2.0**30)
@example(1e9)
def test_sizes_read_back(value):
    assert parse_size(format_size(value)) == value


@given(positive)
@example(1.25e9)
def test_bandwidths_read_back(value):
    assert parse_bandwidth(format_bandwidth(value)) == value


@given(st.one_of(positive, st.just(0.0)))
@example(0.05)
def test_durations_read_back(value):
    assert parse_duration(format_duration(value)) == value


@given(positive)
def test_compute_rates_read_back(value):
    assert parse_compute(format_compute(value)) == value


@given(st.text(max_size=20))
def test_no_text_crashes_a_unit_parser(text):
    for parse in (parse_size, parse_bandwidth, parse_duration, parse_compute):
        with suppress(UnitError):
            assert parse(text) >= 0


qualities = st.builds(
    lambda bandwidth, latency: {"bandwidth": format_bandwidth(bandwidth), "latency": format_duration(latency)},
    positive,
    st.floats(0, 1e4),
)
curves = st.dictionaries(st.integers(1, 10_000), st.floats(1e-6, 1e6), min_size=1, max_size=4).map(
    lambda points: [list(point) for point in sorted(points.items())]
)
profiles = st.one_of(
    st.builds(
        lambda compute, bandwidth: {"compute": format_compute(compute), "bandwidth": format_bandwidth(bandwidth)},
        positive,
        positive,
    ),
    st.lists(st.floats(1, 1e6), min_size=1, max_size=5).map(
        lambda rates: {"tokens_per_s": rates, "kv_tokens": list(range(len(rates)))}
    ),
    st.builds(lambda prefill, decode: {"prefill_ms": prefill, "decode_ms": decode}, curves, curves),
)
words = st.text(alphabet="ab 1.:é✓-no", max_size=6)
options = st.dictionaries(
    words, st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), words), max_size=2
)


@st.composite
def jobs(draw):
    gpus = draw(st.dictionaries(names, st.fixed_dictionaries({"memory": sizes.map(format_size), "profile": profiles})))
    nodes = draw(
        st.dictionaries(
            names,
            st.fixed_dictionaries(
                {"gpu": st.sampled_from([*gpus, "L4"])},
                optional={"region": names, "nic": positive.map(format_bandwidth), "address": st.just("host:7000")},
            ),
            min_size=1,
            max_size=5,
        )
    )
    pair = st.lists(st.sampled_from(sorted(nodes)), min_size=2, max_size=2)
    one_way = st.sampled_from([{}, {"one_way": True}])
    entries = st.lists(
        st.builds(lambda quality, between, way: quality | way | {"between": between}, qualities, pair, one_way),
        max_size=3,
    )
    return {
        "name": draw(names),
        "model": {"source": "random:tiny", "dtype": draw(st.sampled_from(["float32", "bfloat16", "float16"]))},
        "gpus": gpus,
        "nodes": nodes,
        "links": {"default": draw(qualities), "nodes": draw(entries)},
        "solver": draw(st.one_of(st.just("mip"), st.fixed_dictionaries({"name": names, "options": options}))),
    }


@given(jobs())
@settings(max_examples=60, deadline=None)
def test_a_job_reads_back_from_its_own_dump(raw):
    job = Job.model_validate(raw)
    dump = json.loads(json.dumps(job.model_dump(mode="json", exclude_none=True)))
    assert Job.model_validate(dump) == job
    assert Job.model_validate(job.model_dump(mode="json")) == job


@given(jobs())
@settings(max_examples=30, deadline=None)
def test_yaml_says_the_same_as_data(raw):
    # JSON is YAML, as far as this language goes.
    with suppress(SpecError):  # such as a pair of nodes named twice, which only the loader sees
        assert parse_job(json.dumps(raw)) == Job.model_validate(raw)


KEYS = [
    "model: ",
    "nodes: ",
    "links:",
    "a: ",
    "? ",
    ": ",
    "<<: ",
    "- ",
    "gpu: L4",
    "source: random:tiny",
    "1",
    "no",
    "1e999",
]
MARKS = ["\n", "\n  ", "\n    ", " ", "{", "}", "[", "]", "&x ", "*x", "'", '"', "\t", "!!int ", "#", "---", "> "]
yaml_soup = st.lists(st.sampled_from([*KEYS, *MARKS]), max_size=30).map("".join)


@given(st.one_of(st.text(max_size=200), yaml_soup))
@settings(max_examples=300, deadline=None)
@example("[" * 10_000)
@example("- " * 10_000)
@example("? " * 1000)
@example("a: &a {<<: *a}")
@example("a: &a [*a]")
@example("? &k a\n: *k\n*k : b")
@example("\ud800")
def test_no_text_crashes_the_loader(text):
    with pytest.raises(SpecError):
        parse_job(text)

"""Traces: what is shipped, what is made up, and what users bring."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from helix_df.errors import SimulationError
from helix_df.simulator.azure import arrivals, azure_offline, azure_online, lengths, mean_tokens
from helix_df.simulator.synthetic import Lengths, bursts, constant, diurnal, poisson, saturating
from helix_df.simulator.trace import Trace, TraceRequest
from helix_df.simulator.trace_files import read_trace
from helix_df.simulator.trace_names import find_trace


def test_the_shipped_trace_is_the_published_one():
    inputs, outputs = zip(*lengths(), strict=True)
    assert len(inputs) == 16_657
    assert sum(inputs) / len(inputs) == pytest.approx(763.1, abs=0.05)
    assert sum(outputs) / len(outputs) == pytest.approx(232.4, abs=0.05)
    assert max(inputs) <= 2048
    assert max(outputs) <= 1024
    assert len(arrivals()) == 1200


def test_azure_arrivals_have_the_wanted_rate():
    trace = azure_online(2.0, 3000.0, seed=3)
    assert len(trace.requests) == pytest.approx(6000, rel=0.05)
    assert all(0 <= request.arrival_s <= 3000 for request in trace.requests)
    assert sum(trace.mean_tokens) == pytest.approx(mean_tokens(), rel=0.05)


def test_seeds_and_parts_give_other_requests_and_the_same_seed_the_same():
    assert azure_offline(1, 50) == azure_offline(1, 50)
    assert azure_offline(1, 50) != azure_offline(2, 50)
    held_out = {(request.input_tokens, request.output_tokens) for request in azure_offline(0, 200, (0.9, 1.0)).requests}
    assert held_out <= set(lengths()[int(0.9 * len(lengths())) :])
    with pytest.raises(SimulationError, match="empty"):
        azure_offline(0, 5, (0.5, 0.5))


def test_poisson_arrivals_are_independent_of_one_another():
    trace = poisson(5.0, 2000.0, constant(10), constant(3), seed=1)
    times = [request.arrival_s for request in trace.requests]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.2, rel=0.05)
    # An exponential's variance is its mean squared.
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.1)


def test_a_day_has_its_mean_rate_and_its_night():
    trace = diurnal(4.0, 1000.0, constant(10), constant(3), seed=3, period_s=500.0, low=0.25)
    assert len(trace.requests) == pytest.approx(4000, rel=0.05)
    times = np.array([request.arrival_s for request in trace.requests]) % 500
    night = np.count_nonzero((times < 50) | (times >= 450))
    noon = np.count_nonzero((times >= 200) & (times < 300))
    # Of cosines: the mean of the fifth about the lowest, and about the highest.
    assert night / noon == pytest.approx((0.25 + 0.75 * 0.0323) / (0.25 + 0.75 * 0.9677), rel=0.15)
    assert diurnal(4.0, 1000.0, constant(10), constant(3), seed=3, period_s=500.0, low=0.25) == trace


def test_bursts_keep_the_mean_rate_and_leave_pauses():
    trace = bursts(3.0, 1000.0, constant(10), constant(3), seed=2, period_s=10.0, share=0.1)
    assert len(trace.requests) == pytest.approx(3000, rel=0.1)
    assert all(request.arrival_s % 10.0 <= 1.0 + 1e-9 for request in trace.requests)


def test_lengths_stay_in_their_range():
    uniform = saturating(Lengths("uniform", 5, 9), Lengths("exponential", 50, 200), seed=1, count=500)
    assert {request.input_tokens for request in uniform.requests} == {5, 6, 7, 8, 9}
    outputs = [request.output_tokens for request in uniform.requests]
    assert 1 <= min(outputs) < 20
    assert 100 < max(outputs) <= 200


@pytest.mark.parametrize("name", ["trace.csv", "trace.jsonl"])
def test_files_are_read_and_put_in_order(tmp_path: Path, name: str):
    rows = {
        "trace.csv": "arrival_s, input_tokens,output_tokens,max_tokens\n2.5,10,5,\n\n1,20,7,9\n",
        "trace.jsonl": '{"arrival_s": 2.5, "input_tokens": 10, "output_tokens": 5}\n\n'
        '{"arrival_s": 1, "input_tokens": 20, "output_tokens": 7, "max_tokens": 9}\n',
    }
    path = tmp_path / name
    path.write_text(rows[name])
    trace = read_trace(path)
    assert trace.requests == (TraceRequest(1.0, 20, 7, 9), TraceRequest(2.5, 10, 5, 5))


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("a.csv", "", 1, "name the columns"),
        ("a.csv", "input_tokens,output\n1,2\n", 1, "name the columns"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n0,5,5\n1,5\n", 3, "2 columns, the first one 3"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n0,5,5\n1,5,-2\n", 3, "output_tokens must be"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n0,five,5\n", 2, "input_tokens must be"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\nnan,5,5\n", 2, "arrival_s must be"),
        ("a.csv", "input_tokens,output_tokens\n5,5\n", 2, "no arrival_s"),
        ("a.jsonl", '{"input_tokens": 1}\n', 1, "no arrival_s"),
        ("a.jsonl", '{"arrival_s": 0, "input_tokens": 1}\n', 1, "output_tokens must be"),
        ("a.jsonl", '{"arrival_s": 0, "input_tokens": 1, "output_tokens": 1}\nnonsense\n', 2, "not JSON"),
        ("a.jsonl", "[1, 2]\n", 1, "not a JSON object"),
        ("a.jsonl", '{"arrival_s": 0, "input_tokens": true, "output_tokens": 1}\n', 1, "input_tokens must be"),
        ("a.jsonl", '{"arrival_s": 0, "input_tokens": 1, "output_tokens": 9, "max_tokens": 3}\n', 1, "less than"),
    ],
)
def test_mistakes_in_files_are_told_with_their_line(tmp_path: Path, name: str, text: str, line: int, words: str):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SimulationError, match=words) as caught:
        read_trace(path)
    assert caught.value.where == f"{path}:{line}"


def test_files_that_are_not_there_or_not_text(tmp_path: Path):
    with pytest.raises(SimulationError, match="can't be read"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SimulationError, match="UTF-8"):
        read_trace(tmp_path / "bytes.csv")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(SimulationError, match="no requests"):
        read_trace(tmp_path / "empty.jsonl")


def test_names_of_traces(tmp_path: Path):
    trace = find_trace("poisson:rate=3,input=10-20,output=exp:5", seconds=200.0, seed=4)
    assert len(trace.requests) == pytest.approx(600, rel=0.2)
    assert {request.input_tokens for request in trace.requests} == set(range(10, 21))
    assert find_trace("poisson:3", seconds=200.0) != find_trace("poisson:3", seconds=200.0, rate=1.0)
    assert find_trace("bursts:rate=1,period=10,share=0.5", seconds=100.0).name.startswith("bursts")
    assert find_trace("azure", seconds=10.0, offline=True).saturating
    path = tmp_path / "own.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n0,5,5\n10,5,5\n")
    assert find_trace(str(path), seconds=1.0, rate=4.0).requests[-1].arrival_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "rate", "offline", "words"),
    [
        ("azure", None, False, "needs a rate"),
        ("azure", 2.0, True, "has no rate"),
        ("azure", -1.0, False, "above zero"),
        ("poisson:", None, False, "needs a rate"),
        ("poisson:rate=x", None, False, "rate must be"),
        ("poisson:rate=1,size=3", None, False, "no such setting"),
        ("poisson:rate=1,period=3", None, False, "no such setting"),
        ("poisson:rate=1,input=", None, False, "can't be read"),
        ("poisson:rate=1,input=5-x", None, False, "not a length"),
        ("poisson:rate=1,input=9-5", None, False, "starts at 1"),
        ("bursts:rate=1,share=2", None, False, "share"),
        ("diurnal:rate=1,low=2", None, False, "low"),
        ("diurnal:rate=1,share=0.5", None, False, "period, low"),
        ("nonsense", 1.0, False, "no such trace"),
    ],
)
def test_names_that_make_no_sense(name: str, rate: float | None, offline: bool, words: str):
    with pytest.raises(SimulationError, match=words):
        find_trace(name, seconds=50.0, rate=rate, offline=offline)


def test_a_trace_must_be_in_order_and_not_empty():
    late, early = TraceRequest(2.0, 1, 1, 1), TraceRequest(1.0, 1, 1, 1)
    with pytest.raises(SimulationError, match="order"):
        Trace("x", (late, early))
    assert Trace("x", (late, early), saturating=True).mean_tokens == (1, 1)
    with pytest.raises(SimulationError, match="no requests"):
        Trace("x", ())
    with pytest.raises(SimulationError, match="at least that many"):
        TraceRequest(0.0, 1, 5, 4)

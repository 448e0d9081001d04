"""The table of gaps prints what a plan has, for a case that is proven at once."""

from __future__ import annotations

from benchmarks.limits_table import plan_case


def test_a_row_says_flow_bound_and_gap() -> None:
    row = plan_case("geo24", None, 10.0, 10.0)
    assert row.flow <= row.bound.bound * (1 + 1e-9)
    assert row.peak_mib > 0
    assert "| geo24 | any | 1,754.4 | 1,754.4 (priced covering) | 0.0% |" in str(row)

"""Benchmarks print, below pytest-benchmark's table, what the times mean: rates, ratios and limits of the same run."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session: Any = getattr(config, "_benchmarksession", None)
    figures = [(bench.name, bench.extra_info) for bench in session.benchmarks if bench.extra_info] if session else []
    if not figures:
        return
    terminalreporter.section("figures (medians)")
    width = max(len(name) for name, _ in figures)
    for name, extra in figures:
        terminalreporter.write_line(f"{name:<{width}}  " + "  ".join(f"{key}: {value}" for key, value in extra.items()))

"""Benchmarks of running jobs: a trace replayed, beside the simulator's prediction for the same plan and trace.

report = await bench("quickstart", find_trace("azure", seconds=60, offline=True))
report.measured.decode_tokens_per_s, report.simulated, list(report.rows())
"""

from __future__ import annotations

from helix_df.benchmarking.replay import Load, replay
from helix_df.benchmarking.report import BenchReport, report_document
from helix_df.benchmarking.run import bench, bench_job

__all__ = ["BenchReport", "Load", "bench", "bench_job", "replay", "report_document"]

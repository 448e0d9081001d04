"""A job's real daemon, with engines that compute nothing: ``python -m benchmarks.idle_daemon DIR …``.

Coordinator, workers, journal, logs and API are those of any job, the workers in the daemon's own process; an answer
ends after some tokens. So all the load is on what is around the models. What ``start_daemon`` takes as ``command``.
"""

from __future__ import annotations

import sys

from benchmarks.crowd_table import EndingEngine
from helix_df.models.tokenizer import load_tokenizer
from helix_df.plan.plan import Plan
from helix_df.runtime.coordinator.journal import Journal
from helix_df.runtime.coordinator.journaled_answers import JournaledAnswers
from helix_df.runtime.coordinator.shell import Coordinator, context_of
from helix_df.runtime.jobs.daemon import Deployment, Lineage, Parts, main, run_of
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.launchers.embedded import EmbeddedLauncher

COMMAND = (sys.executable, "-m", "benchmarks.idle_daemon")


def _deployment(plan: Plan, job: JobDirectory, lineage: Lineage) -> Deployment:
    end = min(load_tokenizer(plan.job.model.parsed_source).eos_ids)
    width = plan.geometry.hidden_size
    launcher = EmbeddedLauncher(lambda welcome, _report: EndingEngine(welcome.num_layers, width, end))
    journal = Journal(job.journal_path, run_of(plan, lineage), keep_s=plan.job.runtime.keep_answers)
    coordinator = Coordinator(plan, lambda _declared: launcher, log_dir=job.log_dir, embedded=True, journal=journal)
    coordinator.answers = JournaledAnswers(coordinator, journal)
    return coordinator


if __name__ == "__main__":
    parts = Parts(_deployment, lambda plan: load_tokenizer(plan.job.model.parsed_source), context_of)
    sys.exit(main(sys.argv[1:], lambda: parts))

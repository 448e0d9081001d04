"""What a search for goodput is told: the job, the rules of the simulation, and which part of the trace is for what.

Owns these choices and the traces that follow from them. Half of the recorded requests are for the search; the other
half only judges what it found, so that a plan fitted to one trace doesn't pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cached_property

from helix_df.graph.compile import origin_of
from helix_df.graph.problem import Origin
from helix_df.graph.serving_load import ServingLoad, load_of
from helix_df.plan.serving import ServingRules, free_rules, rules_of, with_rules
from helix_df.simulator.artifact import artifact_offline, artifact_online
from helix_df.simulator.azure import azure_offline, azure_online, lengths
from helix_df.simulator.options import Options, options_of
from helix_df.simulator.simulation import Course
from helix_df.simulator.trace import Trace
from helix_df.solvers.goodput.options import GoodputOptions
from helix_df.solvers.goodput.stage_costs import RequestMoments
from helix_df.spec.job import Job

Part = tuple[float, float]

SEARCHED: Part = (0.0, 0.5)
HELD_OUT: Part = (0.5, 1.0)

WARM_UP_S = 60.0
"""Simulated seconds before the window that counts."""

WHOLE_S = 600.0
"""The longest window."""

ONLINE_WARM_UP_S = 120.0
"""Of arrivals that don't count: at first there is room for all."""

SEARCH_ONLINE_S, VALIDATION_ONLINE_S = 480.0, 1080.0
"""Of arrivals that do, for placements of the search and in the validation."""


class SearchConfig:
    """A job to plan for, with the traces and rules to judge plans by."""

    def __init__(self, job: Job, own: GoodputOptions) -> None:
        self.job, self.own = job, own
        self.rules = rules_of(job)
        self._courses: dict[tuple[str, ServingRules, int, Part, float], Course] = {}
        self._traces: dict[Hashable, Trace] = {}

    @property
    def free_rules(self) -> tuple[str, ...]:
        """Serving rules that the search may choose; the artifact's stay as they are."""
        return free_rules(self.job) if self.own.rules == "runtime" else ()

    @cached_property
    def origin(self) -> Origin:
        """The model's geometry and the mean request."""
        return origin_of(self.job)

    @cached_property
    def workload(self) -> RequestMoments:
        """Mean request, and the spread of recorded prompts."""
        inputs = [pair[0] for pair in lengths()]
        mean = sum(inputs) / len(inputs)
        spread = sum(tokens**2 for tokens in inputs) / len(inputs) / mean**2
        return RequestMoments(
            self.origin.requests.input_tokens,
            self.origin.requests.output_tokens,
            spread * self.origin.requests.input_tokens**2,
            tuple(tokens * self.origin.requests.input_tokens / mean for tokens in inputs),
        )

    @cached_property
    def load(self) -> ServingLoad:
        """The recorded requests, scaled as in the traces."""
        return load_of(self._scaled_lengths(input_tokens, output_tokens) for input_tokens, output_tokens in lengths())

    def offline(self, rules: ServingRules, seed: int, part: Part, seconds: float) -> Course:
        """A saturating trace and the rules to run it by."""
        return self._course(self._offline, rules, seed, part, seconds)

    def _offline(self, rules: ServingRules, seed: int, part: Part, seconds: float) -> Course:
        changes = {"seconds": seconds, "warmup_s": WARM_UP_S, "seed": seed}
        options = artifact_offline(**changes) if self.own.rules == "artifact" else self._options(rules, **changes)
        return Course(self._trace(("offline", seed, part), lambda: azure_offline(seed, part=part)), options)

    @property
    def judges_latency(self) -> bool:
        """Whether the job limits it."""
        limits = self.job.limits
        return self.job.workload.rate is not None and (limits.ttft_p95 is not None or limits.itl_p95 is not None)

    def online(self, rules: ServingRules, seed: int, part: Part, seconds: float) -> Course:
        """Arrivals at the job's rate and the rules to run them by."""
        return self._course(self._online, rules, seed, part, seconds)

    def _online(self, rules: ServingRules, seed: int, part: Part, seconds: float) -> Course:
        rate = self.job.workload.rate
        assert rate is not None, "whoever judges latency has a rate"
        return self.arriving(rate, rules, seed, part, seconds)

    def arriving(self, rate: float, rules: ServingRules, seed: int, part: Part, seconds: float) -> Course:
        """Arrivals at ``rate`` requests/s and the rules to run them by."""
        changes = {"seconds": seconds, "warmup_s": ONLINE_WARM_UP_S, "seed": seed}
        options = artifact_online(**changes) if self.own.rules == "artifact" else self._options(rules, **changes)
        key = ("online", rate, options.end_s, seed, part)
        return Course(self._trace(key, lambda: azure_online(rate, options.end_s, seed, part)), options)

    def _options(self, rules: ServingRules, **changes: object) -> Options:
        return options_of(with_rules(self.job, rules), **changes)

    def _course(
        self,
        make: Callable[[ServingRules, int, Part, float], Course],
        rules: ServingRules,
        seed: int,
        part: Part,
        seconds: float,
    ) -> Course:
        """Thousands of simulations get the same few."""
        key = (make.__name__, rules, seed, part, seconds)
        if key not in self._courses:
            self._courses[key] = make(rules, seed, part, seconds)
        return self._courses[key]

    def _trace(self, key: Hashable, make: Callable[[], Trace]) -> Trace:
        """The same requests under all rules, made once."""
        if key not in self._traces:
            self._traces[key] = self._scaled(make())
        return self._traces[key]

    def _scaled(self, trace: Trace) -> Trace:
        """The trace with the job's mean lengths instead of the recorded ones."""
        outputs = self._scales[1]
        scaled = tuple(
            replace(
                request,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                max_tokens=max(1, round(request.max_tokens * outputs)),
            )
            for request in trace.requests
            for input_tokens, output_tokens in (self._scaled_lengths(request.input_tokens, request.output_tokens),)
        )
        return replace(trace, requests=scaled)

    def _scaled_lengths(self, input_tokens: int, output_tokens: int) -> tuple[int, int]:
        inputs, outputs = self._scales
        return max(1, round(input_tokens * inputs)), max(1, round(output_tokens * outputs))

    @cached_property
    def _scales(self) -> tuple[float, float]:
        """The job's mean prompt and output tokens over the recorded ones."""
        pairs, requests = lengths(), self.origin.requests
        inputs = requests.input_tokens / (sum(a for a, _ in pairs) / len(pairs))
        return inputs, requests.output_tokens / (sum(b for _, b in pairs) / len(pairs))

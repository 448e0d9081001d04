"""The report of a simulation: samples for the series, loads over the window, and what became of every request."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from helix_df.simulator.kernel import loop
from helix_df.simulator.kernel.memory import Array, Row, column
from helix_df.simulator.outcome import LinkLoad, NodeLoad, Outcome, RequestTimes, Series
from helix_df.simulator.simulation import Simulation

Readings = dict[str, Array]
"""By field of ``StageRow``, an entry a stage."""

WORK = ("decode_steps", "decode_batches", "prompt_tokens")


@dataclass(slots=True)
class Report:
    """Takes a sample every so often and a reading at both ends of the window."""

    times: list[float] = field(default_factory=list)
    totals: list[tuple[int, int, int]] = field(default_factory=list)
    samples: list[Readings] = field(default_factory=list)
    opening: Readings | None = None
    closing: Readings | None = None
    links_at_opening: Array | None = None
    links_at_closing: Array | None = None

    def read(self, simulation: Simulation, what: int) -> None:
        """Take the reading that it is time for."""
        if what == loop.OPENS:
            self.opening, self.links_at_opening = _stages(simulation), _links(simulation)
        elif what == loop.CLOSES:
            self.closing, self.links_at_closing = _stages(simulation), _links(simulation)
        else:
            counts = Row(simulation.state.counts)
            self.times.append(counts.now_s)
            self.totals.append((counts.all_decoded, counts.active, counts.waiting + counts.delayed + counts.stranded))
            self.samples.append(_stages(simulation))

    def outcome(self, simulation: Simulation, stopped: bool) -> Outcome:
        """Everything that was measured up to now."""
        options, counts = simulation.course.options, Row(simulation.state.counts)
        start, end = options.warmup_s, min(options.end_s, counts.now_s)
        if self.closing is None:
            self.read(simulation, loop.CLOSES)
        return Outcome(
            setup=simulation.setup.name,
            trace=simulation.course.trace.name,
            scheduler=options.scheduler,
            flow=simulation.setup.flow,
            seed=options.seed,
            start_s=min(start, end),
            end_s=end,
            stopped=stopped,
            requests=_requests(simulation),
            decode_tokens=simulation.decode_tokens,
            prompt_tokens=simulation.prompt_tokens,
            gaps_s=simulation.gaps_s,
            nodes=self._nodes(simulation, max(end - start, 0.0)),
            links=self._link_loads(simulation, max(end - start, 0.0)),
            series=self._series(simulation),
            waiting=counts.waiting + counts.delayed + counts.stranded,
            in_flight=counts.active,
        )

    def _nodes(self, simulation: Simulation, seconds: float) -> tuple[NodeLoad, ...]:
        window = [
            sample
            for time, sample in zip(self.times, self.samples, strict=True)
            if time >= simulation.course.options.warmup_s
        ]
        return tuple(self._node(simulation, at, window, seconds) for at in range(len(simulation.setup.stages)))

    def _node(self, simulation: Simulation, at: int, window: list[Readings], seconds: float) -> NodeLoad:
        stage, now, then = simulation.setup.stages[at], self.closing, self.opening
        assert now is not None
        busy = float(now["busy"][at]) - (float(then["busy"][at]) if then else 0.0)
        steps, batches, tokens = (int(now[name][at]) - (int(then[name][at]) if then else 0) for name in WORK)
        peak = int(column(simulation.state.stages, "kv_peak")[at])
        return NodeLoad(
            name=stage.name,
            layers=(stage.layers.start, stage.layers.stop),
            utilisation=busy / seconds if seconds else 0.0,
            mean_decode_batch=steps / batches if batches else 0.0,
            prompt_tokens_per_s=tokens / seconds if seconds else 0.0,
            decode_steps_per_s=steps / seconds if seconds else 0.0,
            kv_mean=_mean([float(row["kv"][at]) for row in window]),
            kv_peak=peak / (stage.kv_tokens * len(stage.layers)),
            mean_waiting=_mean([int(row["seen"][at]) for row in window]),
        )

    def _link_loads(self, simulation: Simulation, seconds: float) -> tuple[LinkLoad, ...]:
        now, then = self.links_at_closing, self.links_at_opening
        assert now is not None
        loads = []
        for at, link in enumerate(simulation.network.links):
            row = Row(simulation.fixed.links, at)
            share = (float(now[at]) - (float(then[at]) if then is not None else 0.0)) / seconds if seconds else 0.0
            capacity = row.token_bytes / row.token_s
            loads.append(LinkLoad(link.tail, link.head, share, share * capacity, capacity))
        return tuple(loads)

    def _series(self, simulation: Simulation) -> Series:
        count, interval_s = len(simulation.setup.stages), simulation.rules.sample_s
        names = ("busy", "decode_steps", "decode_batches", "kv", "seen")
        samples = np.array([[row[name] for name in names] for row in self.samples], dtype=np.float64)
        samples = samples.reshape(len(self.samples), len(names), count)
        since = np.diff(samples, axis=0, prepend=np.zeros((1, len(names), count)))
        totals = np.array(self.totals, dtype=np.float64).reshape(len(self.totals), 3)
        with np.errstate(invalid="ignore", divide="ignore"):
            batch = np.where(since[:, 2] > 0, since[:, 1] / since[:, 2], 0.0)
        return Series(
            time_s=np.array(self.times, dtype=np.float64),
            decode_tokens_per_s=np.diff(totals[:, 0], prepend=0.0) / interval_s,
            in_flight=totals[:, 1].copy(),
            waiting=totals[:, 2].copy(),
            utilisation=(since[:, 0] / interval_s).T,
            batch=batch.T,
            kv=samples[:, 3].T,
            queue=samples[:, 4].T,
        )


def _mean(values: list[float] | list[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def _stages(simulation: Simulation) -> Readings:
    stages, now_s = simulation.state.stages, Row(simulation.state.counts).now_s
    found = {name: column(stages, name).copy() for name in (*WORK, "seen")}
    late_s = np.where(column(stages, "busy"), np.maximum(0.0, column(stages, "busy_until_s") - now_s), 0.0)
    found["busy"] = column(stages, "busy_s") - late_s
    found["kv"] = column(stages, "kv_used") / column(simulation.fixed.stages, "capacity")
    return found


def _links(simulation: Simulation) -> Array:
    links, now_s = simulation.state.links, Row(simulation.state.counts).now_s
    busy_s = column(links, "busy_s")
    left: Array = busy_s - np.minimum(busy_s, np.maximum(0.0, column(links, "free_s") - now_s))
    return left


def _requests(simulation: Simulation) -> RequestTimes:
    state, arrived = simulation.state, simulation.arrived
    found = {name: column(state.requests, name, arrived).copy() for name in RequestTimes.__slots__ if name in _KEPT}
    wanted = column(state.requests, "wanted", arrived)
    inputs, outputs = (column(simulation.fixed.requests, name)[wanted] for name in ("inputs", "outputs"))
    attempts = Row(state.counts).attempts
    alive = np.flatnonzero(column(state.attempts, "alive", attempts))
    running = column(state.attempts, "request", attempts)[alive]
    generated = column(state.requests, "generated", arrived).copy()
    generated[running] = outputs[running] - column(state.attempts, "left", attempts)[alive]
    found["last_token_s"][running] = column(state.attempts, "last_s", attempts)[alive]
    return RequestTimes(
        **found,
        input_tokens=inputs,
        output_tokens=outputs,
        generated_tokens=generated,
        retries=np.maximum(column(state.requests, "attempts", arrived) - 1, 0),
    )


_KEPT = frozenset(("arrived_s", "admitted_s", "first_token_s", "last_token_s", "finished_s", "rejected"))

"""Measuring a running simulation: samples for the series, and loads over the window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from helix_df.simulator.outcome import LinkLoad, NodeLoad, Outcome, RequestTimes, Series

if TYPE_CHECKING:
    from helix_df.simulator.world import World


class Meter:
    """Takes a sample every so often and a reading at both ends of the window."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.times: list[float] = []
        self.rows: list[tuple[int, int, int]] = []
        self.samples: list[list[tuple[float, int, int, float, int]]] = []
        self.opening: list[tuple[float, int, int, int]] = []
        self.closing: list[tuple[float, int, int, int]] = []
        self.links_at_opening: list[float] = []
        self.links_at_closing: list[float] = []

    def begin(self) -> None:
        """Plan the first sample and the window's opening."""
        options = self.world.options
        self.interval_s = options.end_s / options.series
        self.world.at(options.warmup_s, self._on_opening, None)
        self.world.at(options.end_s, self._on_closing, None)
        self.world.at(self.interval_s, self._on_sample, 1)

    def _on_opening(self, _: None) -> None:
        self.opening = self._readings()
        self.links_at_opening = self._link_readings()

    def _on_closing(self, _: None) -> None:
        self.closing = self._readings()
        self.links_at_closing = self._link_readings()

    def _on_sample(self, number: int) -> None:
        world = self.world
        self.times.append(world.now)
        self.rows.append((world.all_tokens, len(world.active), len(world.door.waiting)))
        self.samples.append(
            [
                (
                    self._busy(stage),
                    stage.decode_steps,
                    stage.decode_batches,
                    stage.kv_used / stage.kv_capacity,
                    stage.waiting(world.now),
                )
                for stage in world.stages
            ]
        )
        if number < world.options.series:
            world.at((number + 1) * self.interval_s, self._on_sample, number + 1)

    def _busy(self, stage: object) -> float:
        busy: float = stage.busy_s - (max(0.0, stage.busy_until_s - self.world.now) if stage.busy else 0.0)  # type: ignore[attr-defined]
        return busy

    def _readings(self) -> list[tuple[float, int, int, int]]:
        return [
            (self._busy(stage), stage.decode_steps, stage.decode_batches, stage.prompt_tokens)
            for stage in self.world.stages
        ]

    def _link_readings(self) -> list[float]:
        now = self.world.now
        return [link.busy_s - min(link.busy_s, max(0.0, link.free_s - now)) for link in self.world.network.links]

    def outcome(self, stopped: bool) -> Outcome:
        """Everything that was measured up to now."""
        world = self.world
        options = world.options
        start, end = options.warmup_s, min(options.end_s, world.now)
        if not self.closing:
            self._on_closing(None)
        for attempt in world.active.values():
            attempt.job.generated = attempt.job.wanted.output_tokens - attempt.left
            attempt.job.last_token_s = attempt.last_s
        return Outcome(
            setup=world.setup.name,
            trace=world.trace.name,
            scheduler=options.scheduler,
            flow=world.setup.flow,
            seed=options.seed,
            start_s=min(start, end),
            end_s=end,
            stopped=stopped,
            requests=self._requests(),
            decode_tokens=world.decode_tokens,
            prompt_tokens=world.prompt_tokens,
            gaps_s=np.frombuffer(world.gaps, dtype=np.float32) if world.gaps else np.zeros(0, np.float32),
            nodes=self._nodes(max(end - start, 0.0)),
            links=self._links(max(end - start, 0.0)),
            series=self._series(),
            waiting=len(world.door.waiting),
            in_flight=len(world.active),
        )

    def _requests(self) -> RequestTimes:
        requests = self.world.door.requests

        def times(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
            return np.array([getattr(request, name) for request in requests], dtype=np.float64)

        return RequestTimes(
            arrived_s=times("arrived_s"),
            admitted_s=times("admitted_s"),
            first_token_s=times("first_token_s"),
            last_token_s=times("last_token_s"),
            finished_s=times("finished_s"),
            input_tokens=np.array([request.wanted.input_tokens for request in requests], dtype=np.int64),
            output_tokens=np.array([request.wanted.output_tokens for request in requests], dtype=np.int64),
            generated_tokens=np.array([request.generated for request in requests], dtype=np.int64),
            retries=np.array([max(0, request.attempts - 1) for request in requests], dtype=np.int64),
            rejected=np.array([request.rejected for request in requests], dtype=np.bool_),
        )

    def _nodes(self, seconds: float) -> tuple[NodeLoad, ...]:
        world = self.world
        window = [row for time, row in zip(self.times, self.samples, strict=True) if time >= world.options.warmup_s]
        opening = self.opening or [(0.0, 0, 0, 0)] * len(world.stages)
        loads = []
        for index, (stage, now, then) in enumerate(zip(world.stages, self.closing, opening, strict=True)):
            busy, steps, batches, tokens = (a - b for a, b in zip(now, then, strict=True))
            samples = [row[index] for row in window]
            loads.append(
                NodeLoad(
                    name=stage.name,
                    layers=(stage.layers.start, stage.layers.stop),
                    utilisation=busy / seconds if seconds else 0.0,
                    mean_decode_batch=steps / batches if batches else 0.0,
                    prompt_tokens_per_s=tokens / seconds if seconds else 0.0,
                    decode_steps_per_s=steps / seconds if seconds else 0.0,
                    kv_mean=sum(row[3] for row in samples) / len(samples) if samples else 0.0,
                    kv_peak=stage.kv_peak / stage.kv_capacity,
                    mean_waiting=sum(row[4] for row in samples) / len(samples) if samples else 0.0,
                )
            )
        return tuple(loads)

    def _links(self, seconds: float) -> tuple[LinkLoad, ...]:
        links = self.world.network.links
        opening = self.links_at_opening or [0.0] * len(links)
        loads = []
        for link, now, then in zip(links, self.links_at_closing, opening, strict=True):
            share = (now - then) / seconds if seconds else 0.0
            capacity = link.bytes_per_token / link.s_per_token
            name = self.world.network.name
            loads.append(LinkLoad(name(link.tail_name), name(link.head_name), share, share * capacity, capacity))
        return tuple(loads)

    def _series(self) -> Series:
        count = len(self.world.stages)
        samples = np.array(self.samples, dtype=np.float64).reshape(len(self.samples), count, 5)
        before = np.concatenate([np.zeros((1, count, 5)), samples])[: len(samples)]
        since = samples - before
        tokens = np.array([row[0] for row in self.rows], dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            batch = np.where(since[:, :, 2] > 0, since[:, :, 1] / since[:, :, 2], 0.0)
        return Series(
            time_s=np.array(self.times, dtype=np.float64),
            decode_tokens_per_s=np.diff(tokens, prepend=0.0) / self.interval_s,
            in_flight=np.array([row[1] for row in self.rows], dtype=np.float64),
            waiting=np.array([row[2] for row in self.rows], dtype=np.float64),
            utilisation=(since[:, :, 0] / self.interval_s).T,
            batch=batch.T,
            kv=samples[:, :, 3].T,
            queue=samples[:, :, 4].T,
        )

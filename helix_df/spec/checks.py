"""What only shows when fields are seen together: names that must exist, pairs named twice, lengths that don't fit.

Owns these checks as pure functions from a job to mistakes. Doesn't read files: which GPUs the catalogue knows and how
long the model's context is are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from helix_df.spec.addresses import ANYWHERE, host_of, is_loopback, split_address
from helix_df.spec.job import COORDINATOR, Job, PairLink, Runtime
from helix_df.spec.mistakes import FieldPath, Mistake, dotted
from helix_df.suggestions import alike, did_you_mean

AUTO = "auto"
"""The GPU type of nodes of this machine whose driver is asked."""

MOST_NAMED = 8
"""Names of the catalogue that are offered where one isn't known."""

LONGEST_OFFER = 57
"""Letters of an offer's name, which leave room for a number in the names of its nodes."""


def cross_check(job: Job, catalogue: Collection[str], in_catalogue: Callable[[str], bool]) -> list[Mistake]:
    """Mistakes between the parts of a job, in the order of the file.

    Args:
        job: a job whose fields are right one by one.
        catalogue: names of known devices, for advice.
        in_catalogue: whether a GPU name is known; more than ``catalogue``, as ``2xL4`` follows from ``L4``.
    """
    return [
        *_gpu_types(job, in_catalogue),
        *_machines(job),
        *_node_gpus(job, catalogue, in_catalogue),
        *_offers(job, in_catalogue),
        *_node_names(job),
        *_addresses(job),
        *_encryption(job),
        *_links(job),
        *_limits(job),
        *_latency(job),
        *_scale(job),
        *_api(job),
    ]


def check_context(job: Job, context_length: int) -> list[Mistake]:
    """Lengths that go beyond the model's context of ``context_length`` tokens."""
    mistakes = []
    context = job.model.context
    if context is not None and context > context_length:
        mistakes.append(
            Mistake(
                ("model", "context"),
                "the model was trained for a shorter context",
                str(context),
                f"at most {context_length}",
            )
        )
    longest = min(context or context_length, context_length)
    asked = job.workload.input_length + job.workload.output_length
    if asked > longest and job.workload.model_fields_set:
        mistakes.append(
            Mistake(
                ("workload",),
                "the mean request doesn't fit the model's context",
                f"{job.workload.input_length:g} + {job.workload.output_length:g} tokens",
                f"at most {longest} together",
            )
        )
    return mistakes


def _gpu_types(job: Job, in_catalogue: Callable[[str], bool]) -> Iterator[Mistake]:
    for name, gpu in job.gpus.items():
        if in_catalogue(name):
            continue
        if gpu.profile is None:
            yield Mistake(
                ("gpus", name),
                "this GPU isn't in the catalogue, so its speed has to be declared",
                expected="profile: {compute: …, bandwidth: …}, or measured prefill_ms and decode_ms, or tokens_per_s",
                hint="`helix-df profile JOB` on the device itself measures it",
            )
        if gpu.memory is None and (gpu.profile is None or gpu.profile.kv_tokens is None):
            yield Mistake(
                ("gpus", name),
                "this GPU isn't in the catalogue, so its memory has to be declared",
                expected="memory: …, such as 24GiB",
            )


def _machines(job: Job) -> Iterator[Mistake]:
    if not job.nodes and not job.offers:
        yield Mistake(
            ("nodes",),
            "at least one entry is needed" if "nodes" in job.model_fields_set else "this key is required",
            expected="the machines by name, or offers to choose from",
            hint="declare the machines, for example 'a: {gpu: L4}'",
        )


def _node_gpus(job: Job, catalogue: Collection[str], in_catalogue: Callable[[str], bool]) -> Iterator[Mistake]:
    known = [*job.gpus, *(name for name in catalogue if name not in job.gpus)]
    asked = [
        *((("nodes", name, "gpu"), node.gpu) for name, node in job.nodes.items()),
        *((("offers", name, "gpu"), offer.gpu) for name, offer in job.offers.items()),
    ]
    for path, gpu in asked:
        if gpu == AUTO and gpu not in job.gpus:
            yield Mistake(
                path,
                "only a node that helix-df starts on this machine can be asked for its device",
                expected="the device's type",
                hint="`nvidia-smi --query-gpu=name --format=csv` there prints its name, which can be written here",
            )
        elif gpu not in job.gpus and not in_catalogue(gpu):
            yield Mistake(
                path,
                f"unknown GPU{did_you_mean(gpu, known)}",
                repr(gpu),
                " | ".join([*job.gpus, *alike(gpu, catalogue, MOST_NAMED)]),
                f"docs/spec-reference.md has all {len(catalogue)} of the catalogue; declare others under gpus with "
                "memory and a profile; several devices of one node are 2xL4, 4xT4, …",
            )


def _offers(job: Job, in_catalogue: Callable[[str], bool]) -> Iterator[Mistake]:
    for name, offer in job.offers.items():
        if len(name) > LONGEST_OFFER:
            yield Mistake(
                ("offers", name), "this name is too long for nodes to be called after it", expected="at most 57 letters"
            )
        known = offer.gpu in job.gpus or in_catalogue(offer.gpu)
        if known and job.price_of(offer) is None:
            yield Mistake(
                ("offers", name),
                "nobody says what a node of this offer costs",
                expected=f"price: …, a number for an hour, here or at gpus.{offer.gpu}",
            )


def _node_names(job: Job) -> Iterator[Mistake]:
    if COORDINATOR in job.nodes:
        yield Mistake(
            ("nodes", COORDINATOR),
            "this name is taken by the coordinator itself",
            hint="call the node something else; to run one beside the coordinator, just leave its address out",
        )


def _addresses(job: Job) -> Iterator[Mistake]:
    seen: dict[str, FieldPath] = {}
    places: list[tuple[FieldPath, str | None]] = [
        (("nodes", name, "address"), node.address) for name, node in job.nodes.items()
    ]
    for path, address in [*places, (("coordinator", "address"), job.coordinator.address)]:
        # Without a port two processes may share a host.
        if address is None or split_address(address)[1] is None or host_of(address) == ANYWHERE:
            continue
        if address in seen:
            yield Mistake(path, f"{dotted(seen[address])} has the same address", repr(address), "one port for each")
        seen.setdefault(address, path)


def _encryption(job: Job) -> Iterator[Mistake]:
    beyond = job.beyond_loopback
    if beyond and not job.encrypts and not job.runtime.trust_network:
        yield Mistake(
            ("runtime", "encryption"),
            "prompts, answers and the job's secret would leave this machine unencrypted",
            f"{job.runtime.encryption}, with {', '.join(beyond[:4])}{', …' if len(beyond) > 4 else ''}",
            "auto or always",
            "on a network that nobody else can reach, say so: trust_network: true beside it",
        )


def _links(job: Job) -> Iterator[Mistake]:
    if job.links.default is None and not job.links.regions and not job.links.nodes:
        yield Mistake(
            ("links",),
            "no links are declared, so no node reaches another",
            hint="links: {default: {bandwidth: 10Gbps, latency: 1ms}}",
        )
    endpoints = list(dict.fromkeys([*job.nodes, COORDINATOR]))
    homes = [*(node.region for node in job.nodes.values()), *(offer.region for offer in job.offers.values())]
    regions = list(dict.fromkeys([*homes, job.coordinator.region]))
    yield from _pairs(job.links.nodes, ("links", "nodes"), endpoints, "node", may_repeat=False)
    yield from _pairs(job.links.regions, ("links", "regions"), regions, "region", may_repeat=True)


def check_pins(job: Job, num_layers: int) -> list[Mistake]:
    """Pinned layers that a model of ``num_layers`` layers doesn't have."""
    return [
        Mistake(
            ("limits", "pin", name),
            "these layers are not in the model" if stop > num_layers else "a node can't hold an empty range",
            f"[{start}, {stop}]",
            f"[start, stop] with 0 <= start < stop <= {num_layers}",
        )
        for name, (start, stop) in job.limits.pin.items()
        if not 0 <= start < stop <= num_layers
    ]


def _latency(job: Job) -> Iterator[Mistake]:
    for name, limit in (("ttft_p95", job.limits.ttft_p95), ("itl_p95", job.limits.itl_p95)):
        if limit is not None and job.workload.rate is None:
            yield Mistake(("limits", name), "a limit on latency needs a rate", hint="workload.rate: requests/s")


def _scale(job: Job) -> Iterator[Mistake]:
    scale = job.scale
    if scale is None:
        return
    for index, pattern in enumerate(scale.nodes):
        if not scale.model_copy(update={"nodes": (pattern,)}).named(job.nodes):
            yield _unknown_end(("scale", "nodes", index), "node", pattern, list(job.nodes))
    named = scale.named(job.nodes)
    if len(named) == len(job.nodes) and scale.min == 0:
        yield Mistake(("scale", "min"), "without any node nothing is served", "0", "1 or more, or a node that stays")
    most = len(named) if scale.max is None else scale.max
    if most > len(named):
        yield Mistake(("scale", "max"), "the nodes named are fewer", str(most), f"at most {len(named)}")
    elif scale.min > most:
        yield Mistake(("scale", "min"), "the fewest are more than the most", str(scale.min), f"at most {most}")
    for name in named:
        if job.nodes[name].started_by == "external":
            yield Mistake(
                ("nodes", name, "launcher"),
                "scale starts this node when it is needed, and people start it",
                "external",
                "a launcher that starts workers",
            )
        held = "use" if name in job.limits.use else "pin" if name in job.limits.pin else None
        if held is not None:
            yield Mistake(
                ("scale", "nodes"),
                f"limits.{held} wants this node to have layers at all times",
                repr(name),
                hint="take it out of one of the two",
            )


def lets_anyone_in(runtime: Runtime) -> bool:
    """Whether everybody who reaches the API from beyond this machine may use it, though the job doesn't say so."""
    return not (is_loopback(runtime.host) or runtime.api_keys or runtime.allow_anyone)


def _api(job: Job) -> Iterator[Mistake]:
    if lets_anyone_in(job.runtime):
        yield Mistake(
            ("runtime", "host"),
            "anyone who reaches this host could use the API",
            repr(job.runtime.host),
            "runtime.api_keys, or 127.0.0.1",
            "`helix-df api-keys add NAME` makes a key; `allow_anyone: true` if that is meant",
        )
    if job.runtime.api_keys and job.runtime.allow_anyone:
        yield Mistake(("runtime", "allow_anyone"), "api_keys let only those in who have one", "the boolean true")


def _limits(job: Job) -> Iterator[Mistake]:
    limits, known = job.limits, list(job.nodes)
    named: list[tuple[FieldPath, str]] = [
        *((("limits", "use", i), name) for i, name in enumerate(limits.use)),
        *((("limits", "avoid", i), name) for i, name in enumerate(limits.avoid)),
        *((("limits", "pin", name), name) for name in limits.pin),
    ]
    for path, name in named:
        if name not in known:
            yield _unknown_end(path, "node", name, known)
        elif path[1] != "avoid" and name in limits.avoid:
            yield Mistake(path, "limits.avoid leaves this node out", repr(name), hint="take it out of one of the two")


def _unknown_end(path: FieldPath, noun: str, name: str, known: list[str]) -> Mistake:
    return Mistake(
        path,
        f"there is no {noun} of this name{did_you_mean(name, known)}",
        repr(name),
        " | ".join(known[:20]) + (" | …" if len(known) > 20 else ""),
    )


def _pairs(
    entries: tuple[PairLink, ...], path: FieldPath, known: list[str], noun: str, may_repeat: bool
) -> Iterator[Mistake]:
    seen: dict[tuple[bool, tuple[str, ...]], int] = {}
    for index, entry in enumerate(entries):
        for side, name in enumerate(entry.between):
            if name not in known:
                yield _unknown_end((*path, index, "between", side), noun, name, known)
        a, b = entry.between
        if a == b and (entry.one_way or not may_repeat):
            found = f"a link from a {noun} to itself" if not may_repeat else f"links inside a {noun} go both ways"
            yield Mistake((*path, index, "between"), found, repr(a), f"two different {noun}s")
        direction = (entry.one_way, (a, b) if entry.one_way else tuple(sorted((a, b))))
        if direction in seen:
            hint = "one_way: true is for each direction by itself" if entry.one_way else "links go both ways"
            yield Mistake(
                (*path, index, "between"),
                f"this pair is named twice, first at {dotted((*path, seen[direction]))}",
                f"[{a}, {b}]",
                hint=f"{hint}; keep one of the two",
            )
        seen.setdefault(direction, index)

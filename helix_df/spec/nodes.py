"""The machines of a job: what one entry under ``nodes`` says, and the nodes that it stands for.

Owns names and addresses of nodes that are declared together: texts with ``{n}``, which is each one's number.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from helix_df.spec.addresses import ANYWHERE, host_of, split_address
from helix_df.spec.mistakes import Refusal
from helix_df.spec.section import NAME, NAME_RULE, Count, Name, Number, Section
from helix_df.spec.units import Bandwidth

MOST_NODES = 100_000
"""That one entry may stand for."""

MOST_CPUS = 256
"""Of one node."""

NUMBER = re.compile(r"\{n(?::0([1-9]))?\}")
"""``{n}``, or ``{n:03}`` for numbers of three digits at least."""


def has_number(text: str) -> bool:
    """Whether a text is another one for each node."""
    return NUMBER.search(text) is not None


def numbered(text: str, number: int) -> str:
    """The text of the node of this number."""
    return NUMBER.sub(lambda match: f"{number:0{match[1] or 1}}", text)


def names_of(key: str, count: int | None, names: str | None) -> list[str]:
    """What the nodes of an entry are called: as ``names`` says, or ``KEY-1``, ``KEY-2`` …; its key if there is one."""
    if count is None:
        return [key]
    return [numbered(names or f"{key}-{{n}}", number) for number in range(1, count + 1)]


def _address(text: str) -> str:
    try:
        _, port = split_address(text)
    except ValueError as error:
        raise Refusal(str(error), "host or host:port, such as 10.0.0.5:7000 or [fd00::5]:7000") from None
    if port == "*":
        raise Refusal("the address has no port that others could know", "1 to 65535, or none for any free one")
    return text


Address = Annotated[str, AfterValidator(_address)]


def _addresses(text: str) -> str:
    _address(numbered(text, 1))
    return text


class Node(Section):
    """One machine that can hold layers, or with `count` as many that are alike."""

    gpu: str = Field(
        description="A type under `gpus`, or one of the catalogue, also as `nvidia-smi` prints it; `auto` asks this "
        "machine's driver, and nodes of this machine that say so share its devices evenly.",
        examples=["L4", "2xT4", "auto"],
    )
    region: Name = Field(default="default", description="Region or site, for links between regions.")
    address: Annotated[str, AfterValidator(_addresses)] | None = Field(
        default=None,
        description="`host[:port]` where other nodes reach it; by default this machine. With `count`, `{n}` stands for "
        "each one's number. `auto` is for launchers that choose the host: the worker says where it is.",
        examples=["10.0.0.5", "a100-{n}.fleet:7000", "auto"],
    )
    count: Count | None = Field(
        default=None,
        ge=1,
        le=MOST_NODES,
        description="So many nodes that are alike, called after this one: `NAME-1`, `NAME-2` and so on.",
    )
    names: str | None = Field(
        default=None,
        description="What these are called otherwise: `{n}` is the number, `{n:03}` in three digits at least.",
        examples=["rack2-{n:02}"],
    )
    launcher: Name | None = Field(
        default=None,
        description="Who starts the worker: `local` = helix-df, on this machine; `ssh` = helix-df, on that host; "
        "`ray`, `slurm`, `kubernetes` = these, where they find room; `external` = you, on that host; or one of another "
        "package. By default local without an address, external with one.",
        examples=["local", "external", "ssh"],
    )
    cpus: Count | None = Field(
        default=None,
        ge=1,
        le=MOST_CPUS,
        description="Cores that its worker computes on, where that is a CPU: products are shared among as many "
        "threads, and give the same numbers on any. By default the nodes of one host share its cores evenly.",
        examples=[4],
    )
    nic: Bandwidth | None = Field(
        default=None, description="Bandwidth of the network card, shared by all links of the node, in each direction."
    )
    speed: Number = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of its GPU type's throughput that the node has: 0.25 is four times slower. Used for "
        "planning; with `runtime.emulate` the worker keeps to it.",
    )

    @property
    def started_by(self) -> str:
        """The launcher in force."""
        if self.launcher is not None:
            return self.launcher
        return "local" if self.address is None else "external"

    @property
    def is_placed(self) -> bool:
        """Whether whoever starts its worker chooses the host."""
        return self.address is not None and host_of(self.address) == ANYWHERE

    @model_validator(mode="after")
    def _place(self) -> Node:
        if self.count is None and self.launcher == "local" and self.is_placed:
            raise Refusal("the host of a local node is this machine", "no address, or a launcher that chooses one")
        return self

    @model_validator(mode="after")
    def _numbers(self) -> Node:
        if self.count is None:
            if self.names is not None:
                raise Refusal("names are for several nodes", "a count beside them, or the node's name as its key")
            if self.address is not None and has_number(self.address):
                raise Refusal("the address has a number, and the node is one", "a count beside it, or no {n}")
        elif self.names is not None and not has_number(self.names):
            raise Refusal("all of these nodes would have one name", "{n} in names, for the number of each")
        elif self.count > 1 and self.address is not None and not has_number(self.address):
            self._check_shared(self.address)
        return self

    def _check_shared(self, address: str) -> None:
        """Without a port processes may share a host."""
        if split_address(address)[1] is not None and host_of(address) != ANYWHERE:
            raise Refusal("all of these nodes would have one address", "{n} in it, for the number of each")

    def each(self, key: str) -> dict[str, Node]:
        """The nodes that this entry stands for, by name; of ``key`` alone if it is one.

        Raises:
            Refusal: for a name or an address that can't be one.
        """
        if self.count is None:
            return {key: self}
        found = {}
        for number, name in enumerate(names_of(key, self.count, self.names), start=1):
            if NAME.fullmatch(name) is None:
                raise Refusal(f"{name!r} can't be a node's name ({key})", NAME_RULE)
            address = None if self.address is None else _address(numbered(self.address, number))
            found[name] = self.model_copy(update={"count": None, "names": None, "address": address})
        return found


def each_node(declared: dict[str, Node]) -> dict[str, Node]:
    """The nodes that entries stand for, in their order."""
    if all(node.count is None for node in declared.values()):
        return declared
    nodes: dict[str, Node] = {}
    for key, node in declared.items():
        of_key = node.each(key)
        for name in of_key.keys() & nodes.keys():
            raise Refusal(f"there are two nodes {name}, one of them of {key}", "a name of its own for each node")
        nodes |= of_key
    return nodes

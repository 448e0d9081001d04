"""Which requests begin with the KV cache of others, and what is kept for those to come.

A request can begin with what another has computed once that has its first token: then its prompt has gone through every
worker of its route. Until it has a first token itself, what it begins with stays. What is over is kept for as long as
nobody needs the room, the least recently used goes first. Where a request frees pages while it runs, since they have
left a window, others begin with it only once it is over, and only where all that they see is there. So where its prompt
parts from an earlier one, workers hold on to what is seen there, a *checkpoint*, which is kept like a request that is
over. Pure: what workers are to free is returned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from helix_df.rules.routing import Pipeline
from helix_df.runtime.coordinator.page_ledger import PageLedger
from helix_df.runtime.coordinator.prefix_index import PrefixIndex
from helix_df.runtime.coordinator.seen_prompts import SeenPrompts
from helix_df.runtime.requests import Prefix, checkpoint_name
from helix_df.runtime.wire.messages import Release

Releases = list[tuple[Pipeline, Release]]
"""What every worker of a route is to be told, in this order."""


@dataclass(slots=True)
class _Entry:
    """A request that runs, or of which something is kept.

    ``parent`` is what it begins with, until its first token. ``needed`` says how many of its tokens others begin with
    that have no first token yet. One that is ``leaving`` is there for these alone. ``checkpoint`` is how many of its
    tokens workers are to hold on to under a name of their own, as long as others can't begin there yet; that name is
    one of the ``coming``, by its route and the digest of its tokens.
    """

    route: Pipeline
    prompt: Sequence[int]
    parent: str | None = None
    needed: dict[str, int] = field(default_factory=dict)
    shared: bool = False
    leaving: bool = False
    checkpoint: int = 0
    coming: tuple[Pipeline, bytes] | None = None


@dataclass(slots=True)
class PrefixCache:
    """All requests that hold KV cache; the ledger counts them. Not ``enabled``, nobody shares and nothing is kept.

    ``hits`` are requests that began with something, ``cached_tokens`` what they didn't have to compute.
    """

    ledger: PageLedger
    enabled: bool = True
    hits: int = 0
    cached_tokens: int = 0
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _kept: dict[str, None] = field(default_factory=dict)
    _index: PrefixIndex = field(init=False)
    _seen: SeenPrompts = field(init=False)
    _coming: set[tuple[Pipeline, bytes]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._index = PrefixIndex(self.ledger.page_tokens)
        self._seen = SeenPrompts(self.ledger.page_tokens)

    def start(
        self,
        request: str,
        route: Pipeline,
        tokens: Sequence[int],
        expected: int,
        most: int | None = None,
        *,
        alone: bool = False,
    ) -> tuple[Prefix | None, Releases]:
        """Count a request on its route; say what it begins with.

        At least its last token is left to compute, since that is what the next one is drawn from.

        Args:
            request: who.
            route: where.
            tokens: of its prompt.
            expected: tokens that it is expected to come to.
            most: tokens that it can come to; default those expected.
            alone: whether it begins with nothing, whatever there is.
        """
        prefix = self._index.longest(route, tokens[:-1]) if self.enabled and not alone else None
        entry = self._entries[request] = _Entry(route, tuple(tokens) if self.enabled else ())
        nodes, most = (hop.node for hop in route), expected if most is None else most
        self.ledger.start(request, nodes, expected, most, len(entry.prompt), prefix)
        if prefix is not None:
            entry.parent = prefix.parent
            self._entries[prefix.parent].needed[request] = prefix.tokens
            self._touch(prefix.parent)
            self.hits += 1
            self.cached_tokens += prefix.tokens
        if self.enabled:
            self._plan_checkpoint(request, entry, prefix.tokens if prefix else 0)
        return prefix, self._make_room(route)

    def checkpoint(self, request: str) -> int:
        """Of one that has just started: with how many tokens others shall be able to begin while it frees pages, so
        that workers hold on to what is seen there (``requests.checkpoint_name``); 0 for none."""
        return self._entries[request].checkpoint if checkpoint_name(request) in self._kept else 0

    def on_token(self, request: str, tokens: int) -> Releases:
        """A request has a token, and goes on with ``tokens`` of them."""
        entry = self._entries[request]
        releases: Releases = []
        if not entry.shared:
            entry.shared = True
            if self.ledger.slides(request):
                self.ledger.has_token(request)
            else:
                self._index.add(request, entry.route, entry.prompt)
            self._leave_checkpoint(request, is_there=True)
            releases += [*self._let_parent_go(request), *self._make_room(entry.route)]
        # A page ahead of need, so that what has to go is gone by then.
        if self.ledger.grow(request, tokens + self.ledger.page_tokens):
            releases += self._make_room(entry.route)
        return releases

    def end(self, request: str, tokens: Sequence[int]) -> Releases:
        """A request is over. ``tokens`` are those whose KV cache is on every worker; none where that isn't sure."""
        entry = self._entries[request]
        self._index.remove(request)
        given_up = self._leave_checkpoint(request, is_there=bool(tokens))
        whole = len(tokens) // self.ledger.page_tokens * self.ledger.page_tokens if self.enabled else 0
        if whole and not self._is_covered(entry.route, tokens[:whole]):
            self.ledger.keep(request, whole)
            self._index.add(request, entry.route, tokens[:whole], self.ledger.shared_from(request))
            self._kept[request] = None
            releases = [(entry.route, Release(request, whole))]
        else:
            releases = self._retire(request)
        return [*given_up, *releases, *self._let_parent_go(request, entry), *self._make_room(entry.route)]

    def drop_parent(self, request: str) -> Releases:
        """What a request was to begin with isn't on every worker after all: nobody else is to try."""
        parent = self._entries[request].parent
        if parent is None:
            return []
        self._index.remove(parent)
        return self._retire(parent) if parent in self._kept else []

    def drop_node(self, node: str) -> Releases:
        """Nothing is kept any more on routes through a node."""
        return self._retire_all(request for request in self._kept if self._leads_through(request, {node}))

    def validate(self, running: Collection[str]) -> None:
        """Check that exactly those are here who run, are kept or are needed, and that need is mutual.

        Raises:
            AssertionError: when that is wrong.
        """
        coming = {entry.coming for entry in self._entries.values() if entry.coming is not None}
        assert coming == self._coming, "a checkpoint is waited for that nobody comes to"
        leaving = {name for name, entry in self._entries.items() if entry.leaving}
        assert set(self._entries) == {*running, *self._kept, *leaving}, "entries without a reason"
        assert not leaving & {*running, *self._kept}, "somebody leaves and stays"
        for name, entry in self._entries.items():
            assert entry.parent is None or name in self._entries[entry.parent].needed, f"{name} isn't waited for"
            assert all(self._entries[child].parent == name for child in entry.needed), f"{name} waits for nobody"
            assert entry.needed or not entry.leaving, f"{name} is of no use"

    def _plan_checkpoint(self, request: str, entry: _Entry, begun: int) -> None:
        """Where its prompt parts from an earlier one, unless others can begin there anyway."""
        parting = self._seen.note(entry.prompt[:-1])
        place, tokens = (entry.route, parting.digest), parting.tokens
        if tokens <= begun or not self.ledger.slides(request) or place in self._coming:
            return
        name = checkpoint_name(request)
        entry.checkpoint = tokens
        self.ledger.branch(request, name, tokens)
        self._entries[name] = _Entry(entry.route, entry.prompt[:tokens], coming=place)
        self._kept[name] = None
        self._coming.add(place)

    def _leave_checkpoint(self, request: str, *, is_there: bool) -> Releases:
        """Others can begin at a request's checkpoint from now on, once its prompt has passed every worker of its route;
        or never, where some worker may not have come to it."""
        entry, name = self._entries[request], checkpoint_name(request)
        tokens, entry.checkpoint = entry.checkpoint, 0
        if not tokens or name not in self._kept:
            return []
        if not is_there:
            return self._retire(name)
        self._index.add(name, entry.route, self._entries[name].prompt, self.ledger.shared_from(name))
        self._come(self._entries[name])
        return []

    def _come(self, entry: _Entry) -> None:
        """Nobody waits any more for a checkpoint to be there."""
        if entry.coming is not None:
            self._coming.remove(entry.coming)
            entry.coming = None

    def _is_covered(self, route: Pipeline, tokens: Sequence[int]) -> bool:
        """Whether somebody else has as much, who then counts as just used."""
        found = self._index.longest(route, tokens)
        if found is None or found.tokens < len(tokens):
            return False
        self._touch(found.parent)
        return True

    def _touch(self, request: str) -> None:
        if request in self._kept:
            del self._kept[request]
            self._kept[request] = None

    def _let_parent_go(self, request: str, entry: _Entry | None = None) -> Releases:
        entry = entry or self._entries[request]
        parent, entry.parent = entry.parent, None
        if parent is None:
            return []
        del self._entries[parent].needed[request]
        return self._retire(parent) if self._entries[parent].leaving else []

    def _make_room(self, route: Pipeline) -> Releases:
        releases: Releases = []
        for request in tuple(self._kept):
            full = {hop.node for hop in route if self.ledger.excess(hop.node)}
            if not full:
                break
            if self._leads_through(request, full) and self.ledger.idle(request):
                releases += self._retire(request)
        return releases

    def _leads_through(self, request: str, nodes: set[str]) -> bool:
        return any(hop.node in nodes for hop in self._entries[request].route)

    def _retire_all(self, requests: Iterable[str]) -> Releases:
        return [release for request in tuple(requests) for release in self._retire(request)]

    def _retire(self, request: str) -> Releases:
        """Nobody else begins with this; it goes at once, or with the last who needs it."""
        entry = self._entries[request]
        self._index.remove(request)
        self._kept.pop(request, None)
        self._come(entry)
        entry.leaving = True
        tokens = max(entry.needed.values(), default=0)
        self.ledger.keep(request, tokens)
        if not tokens:
            del self._entries[request]
        return [(entry.route, Release(request, tokens))]

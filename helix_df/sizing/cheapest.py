"""The cheapest fleet that meets all inequalities and isn't excluded: a small integer program, exact.

Owns the program. Doesn't know where inequalities come from, or which fleets serve.
"""

from __future__ import annotations

from ortools.sat.python import cp_model

from helix_df.sizing.market import Fleet, Market
from helix_df.sizing.necessary import Inequality

UNLIMITED = 10_000
"""Nodes of an offer without a most: more than anybody plans for."""


class CheapestFleet:
    """Fleets in the order of their cost. Inequalities and exclusions are added as a search learns of them."""

    def __init__(self, market: Market) -> None:
        self._model = cp_model.CpModel()
        self._most = [UNLIMITED if offer.most is None else offer.most for offer in market.offers]
        self._counts = [self._model.new_int_var(0, most, "") for most in self._most]
        prices = [offer.price_units for offer in market.offers]
        self._model.minimize(sum(price * count for price, count in zip(prices, self._counts, strict=True)))

    def require(self, inequality: Inequality) -> None:
        """From now on fleets meet this."""
        terms = zip(inequality.values, self._counts, strict=True)
        self._model.add(sum(value * count for value, count in terms) >= inequality.need)

    def exclude(self, fleet: Fleet) -> None:
        """From now on fleets have more than this one of some offer: neither it nor any part of it comes again."""
        more = []
        for count, most, variable in zip(fleet, self._most, self._counts, strict=True):
            if count < most:
                larger = self._model.new_bool_var("")
                self._model.add(variable >= count + 1).only_enforce_if(larger)
                more.append(larger)
        self._model.add_bool_or(more)

    def next(self) -> Fleet | None:
        """The cheapest fleet, ``None`` if there is none. The same calls give the same fleets."""
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        status = solver.solve(self._model)
        if status != cp_model.OPTIMAL:
            return None
        return tuple(int(solver.value(count)) for count in self._counts)

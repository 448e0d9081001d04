"""Upper bounds on the flow of any placement, as pure functions, each with its proof."""

from __future__ import annotations

import math

from helix_df.graph.problem import Problem


def covering_bound(problem: Problem) -> float:
    """No placement has more tokens/s than the largest ``F`` with ``Σ_i max_k k·min(T_i(k), F) ≥ L·F``.

    Proof. Take a placement with flow ``F`` where node ``i`` holds ``k_i`` layers. Every token runs every layer once,
    so the nodes that hold a layer pass at least ``F`` together, and one of them passes at most ``min(T_i(k_i), F)``.
    Sum over the ``L`` layers: node ``i`` is counted ``k_i`` times, hence ``Σ_i k_i·min(T_i(k_i), F) ≥ L·F``. Replace
    ``k_i`` by the best ``k``. Divided by ``F`` the left side never grows with ``F``, so bisection finds the largest.
    Links and network cards only lower the flow. Holds with and without partial inference.

    Returns 0 when the nodes can't hold all layers.
    """
    tables = [
        [problem.node_capacity(node, k) for k in range(1, node.max_layers + 1)]
        for node in problem.nodes
        if node.max_layers
    ]
    counted: dict[tuple[float, ...], int] = {}
    for table in tables:
        counted[tuple(table)] = counted.get(tuple(table), 0) + 1

    def covers(flow: float) -> bool:
        layers = sum(
            count * max(k * min(capacity / flow, 1.0) for k, capacity in enumerate(table, start=1))
            for table, count in counted.items()
        )
        # Rounding must never cut off a flow that is reached exactly.
        return layers >= problem.num_layers * (1 - 1e-12)

    if sum(len(table) for table in tables) < problem.num_layers:
        return 0.0
    low, high = 0.0, sum(max(table) for table in tables)
    if covers(high):
        return high
    while high - low > 1e-12 * high and math.nextafter(low, high) < high:
        middle = (low + high) / 2
        low, high = (middle, high) if covers(middle) else (low, middle)
    return high

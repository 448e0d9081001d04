"""A solver of somebody else's: nodes take as many layers as fit, in the order of the job."""

from helix_df.layers import LayerRange
from helix_df.solvers.api import SolveResult, Termination


class GreedySolver:
    name = "greedy-example"

    def solve(self, problem, options, watch):
        placement, position = {}, 0
        for node in problem.nodes:
            stop = min(position + node.max_layers, problem.num_layers)
            if stop > position:
                placement[node.name] = LayerRange(position, stop)
                position = stop
        return SolveResult(placement, Termination("finished"))


class Hollow:
    """No solver at all."""

"""The simulator: a plan under a trace, batch by batch, with the runtime's own routing and admission."""

from __future__ import annotations

from helix_df.simulator.options import Options, options_of
from helix_df.simulator.outcome import Outcome
from helix_df.simulator.prediction import predict
from helix_df.simulator.setup import Setup, setup_of
from helix_df.simulator.simulate import simulate
from helix_df.simulator.trace import Trace, TraceRequest

__all__ = ["Options", "Outcome", "Setup", "Trace", "TraceRequest", "options_of", "predict", "setup_of", "simulate"]

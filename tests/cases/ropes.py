"""Rope settings in the places and spellings that configs have them, for the recording script and the tests."""

from __future__ import annotations

from typing import Any

LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
ROPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "older": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "newer": {"rope_parameters": {**LINEAR, "rope_theta": 10000.0}, "rope_theta": ...},
    "both": {"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "both, older spelling": {
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "both the same": {"rope_scaling": LLAMA3, "rope_parameters": {**LLAMA3, "rope_theta": 10000.0}},
    "theta inside wins": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "rope_theta": 10000.0},
    "theta beside": {"rope_scaling": LLAMA3, "rope_theta": 500000.0},
    "no theta": {"rope_theta": ...},
    "scaling of nothing": {"rope_scaling": None, "rope_parameters": None},
}
"""Changes to ``tests.oracle.checkpoints.CONFIGS["grouped"]`` by name; ``...`` removes an option."""

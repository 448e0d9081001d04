"""What a simulation found on a node or link, in words: the same on the page and in the terminal.

Owns the choice of figures and their digits. Doesn't know tables or HTML.
"""

from __future__ import annotations

from helix_df.layers import LayerRange
from helix_df.pictures.layout import number, size
from helix_df.simulator.outcome import LinkLoad, NodeLoad


def layers_held(node: NodeLoad) -> str:
    """Half-open, as everywhere."""
    return str(LayerRange(*node.layers))


def node_cells(node: NodeLoad) -> tuple[str, ...]:
    """Time at work, mean decode batch, decode and prompt tokens/s, KV cache (mean and peak), requests waiting."""
    return (
        f"{node.utilisation:.0%}",
        f"{node.mean_decode_batch:.1f}",
        number(node.decode_steps_per_s),
        number(node.prompt_tokens_per_s),
        f"{node.kv_mean:.0%}",
        f"{node.kv_peak:.0%}",
        f"{node.mean_waiting:.1f}",
    )


def link_rates(link: LinkLoad) -> tuple[str, str]:
    """Bytes/s carried, and of how many."""
    return f"{size(link.bytes_per_s)}/s", f"{size(link.capacity_bytes_per_s)}/s"

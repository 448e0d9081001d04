"""What is recorded of the reference implementation: inputs shared by the recording script and the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RECORDED = Path(__file__).parent / "recorded"
NEW_TOKENS = 64
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a small village near the sea, there lived an old fisherman who",
)
TRICKY_TEXTS = (
    "",
    " ",
    "  leading and   inner spaces ",
    "\n\n\tTabs\tand\r\nnewlines\n",
    "It's we'll I'd they've DON'T",
    "3.14159 1234567890 0x1F 1,000,000",
    "naïve café — “quotes” … €100",
    "日本語のテキスト 中文 한국어",
    "العربية עברית हिन्दी",
    "😀👩‍👩‍👧‍👦🇫🇷 é combining",
    "<|im_start|>user\nhi<|im_end|>\n",
    "a<|endoftext|>b",
    "snake_case camelCase HTTPServer() -> None: # !!! ...",
    "\u00a0non\u2003breaking\u200bspaces\ufeff",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
)
CHATS = (
    [{"role": "user", "content": "hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}],
    [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Sure? ✓"},
    ],
)


def probe_ids(vocab_size: int) -> np.ndarray:
    """256 vocabulary ids spread evenly, the same for everybody."""
    return np.linspace(0, vocab_size - 1, 256).astype(np.int64)


def prompt_ids(vocab_size: int, length: int) -> np.ndarray:
    """A prompt for the made-up checkpoints."""
    return (np.arange(length) * 37 + 11) % (vocab_size - 64)


SCORED = ("grouped", "llama3-rope")
SCORED_LENGTHS = (1, 2, 23, 150)
SCORED_BEST = 5
"""Checkpoints and prompts whose tokens are scored, with so many of the likeliest beside each."""

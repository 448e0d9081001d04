"""Runs a Python block of the documentation, with the names that its page takes for granted; may `await` at the top."""

import ast
import asyncio
import inspect
import sys
from pathlib import Path

import helix_df
from helix_df.simulator import options_of
from helix_df.simulator.azure import azure_offline

if __name__ == "__main__":
    plan = helix_df.read_plan("quickstart.plan.json")
    names = {
        "helix_df": helix_df,
        "Path": Path,
        "plan": plan,
        "job": plan.job,
        "trace": azure_offline(seed=0),
        "options": options_of(plan.served, seconds=30.0, warmup_s=0.0),
        "__name__": "block",
    }
    code = compile(sys.stdin.read(), "block.py", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        asyncio.run(result)

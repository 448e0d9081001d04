import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import URL, trying

TOKENS = 12


def ran(profile: str, requests: int) -> dict:
    """The one benchmark of a run over prompts of our own; nothing is looked for on the hub."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            json.dumps({"prompt": f"Tell me about city number {number}.", "output_tokens_count": TOKENS})
            for number in range(requests)
        ]
        (Path(folder) / "prompts.jsonl").write_text("\n".join(lines))
        options = {
            "backend": f"kind=openai_http,target={URL}",
            "profile": profile,
            "constraint": f"kind=max_requests,count={requests}",
            "data": "kind=json_file,path=prompts.jsonl",
            "output": "kind=json,path=out.json",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        program = Path(sys.executable).with_name("guidellm")
        command = [str(program), "run", *words, "--disable-console-interactive"]
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        (benchmark,) = json.loads((Path(folder) / "out.json").read_text())["benchmarks"]
    done = benchmark["metrics"]["request_totals"]
    assert (done["successful"], done["errored"]) == (requests, 0), done
    return benchmark["metrics"]


with trying("requests one after another"):
    ran("kind=synchronous", 3)
with trying("four at a time"):
    metrics = ran("kind=concurrent,streams=4", 8)
    assert metrics["output_token_count"]["successful"]["mean"] == TOKENS
with trying("at a rate"):
    ran("kind=constant,rate=1", 4)

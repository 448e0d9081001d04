"""Commands tell where a job's speeds contradict measured curves: once, and with what to do."""

import pytest

from helix_df.cli.main import main

TABLE = [round(9000 / layers) for layers in range(1, 16)]
CACHE = [200_000 // layers for layers in range(1, 16)]
JOB = f"""\
name: odd
model: {{source: random:llama-30b, dtype: float16}}
gpus:
  A100-40GB: {{profile: {{tokens_per_s: {TABLE}, kv_tokens: {CACHE}}}}}
nodes:
  a: {{gpu: A100-40GB}}
  b: {{gpu: A100-40GB}}
  c: {{gpu: A100-40GB}}
  d: {{gpu: A100-40GB}}
links: {{default: {{bandwidth: 10Gbps}}}}
solver: {{name: even}}
"""
WINDOW = ["--seconds", "5", "--warmup", "1", "--offline"]


@pytest.mark.parametrize("command", [["validate"], ["plan"], ["simulate", *WINDOW]], ids=lambda command: command[0])
def test_a_contradiction_is_told_once_with_what_to_do(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    with pytest.raises(SystemExit) as end:
        main([command[0], "job.yaml", *command[1:]])
    said = capsys.readouterr()
    assert end.value.code == 0
    assert said.err.count("contradict the catalogue's measured curves") == 1
    assert "gpus.A100-40GB: " in said.err
    assert "by the curves, a factor of " in said.err
    assert "helix-df profile" in said.err
    assert "contradict" not in said.out

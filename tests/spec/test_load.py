"""What the loader accepts, resolves and refuses. Mistakes as a user meets them are in tests/cli/test_mistakes."""

from pathlib import Path
from typing import Any

import pytest

from helix_df.errors import SpecError, SpecErrors
from helix_df.load import load_job, parse_job
from helix_df.spec.yaml_tree import MAX_VALUES, parse_yaml

JOB = """\
model: {source: random:tiny}
nodes:
  a: {gpu: L4}
links: {default: {bandwidth: 10Gbps, latency: 1ms}}
"""


def refusal(text: str) -> Any:
    """The ``SpecError``, or the ``SpecErrors`` when there are several."""
    with pytest.raises(SpecError) as caught:
        parse_job(text)
    return caught.value


def test_the_smallest_job():
    job = parse_job(JOB)
    assert job.links.default.bandwidth == 1.25e9
    assert job.links.default.latency == 1e-3
    assert (job.name, job.runtime.port, job.solver.name) == ("helix", 8000, "auto")


def test_solver_shorthand_means_its_name():
    assert parse_job(JOB + "solver: mip\n") == parse_job(JOB + "solver: {name: mip}\n")


def test_speculation_shorthand_means_its_drafter():
    short, long = (parse_job(f"{JOB}runtime: {{speculation: {said}}}\n") for said in ("lookup", "{drafter: lookup}"))
    assert short == long


@pytest.mark.parametrize(
    ("text", "value"), [("1e3", 1000.0), ("1.5e3", 1500.0), ("2000", 2000), ("2_000", 2000), ("0.5", 0.5)]
)
def test_numbers_as_people_write_them(text, value):
    assert parse_yaml(f"x: {text}", "t").data == {"x": value}


@pytest.mark.parametrize("text", ["12:30", "2024-01-01", "10.0.0.1:7000", "'1e3'", "0x", "~x"])
def test_text_stays_text(text):
    assert parse_yaml(f"x: {text}", "t").data == {"x": text.strip("'")}


def test_anchors_and_merges():
    text = """\
defaults: &a {gpu: L4, region: eu}
more: &b {region: us, nic: 1Gbps}
one: {<<: *a, region: asia}
two: {<<: [*a, *b]}
three: *a
"""
    data: Any = parse_yaml(text, "t").data
    assert data["one"] == {"gpu": "L4", "region": "asia"}
    assert data["two"] == {"gpu": "L4", "region": "eu", "nic": "1Gbps"}
    assert data["three"] == data["defaults"]


def test_an_alias_bomb_is_refused_quickly():
    levels = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    error = refusal("\n".join(levels))
    assert f"{MAX_VALUES:,} values" in error.problem


def test_all_mistakes_are_told_at_once_with_their_lines():
    error = refusal(JOB.replace("L4", "[]") + "runtime:\n  port: 99999\n  prot: 1\n")
    assert isinstance(error, SpecErrors)
    assert [single.where for single in error.errors] == [
        "job.yaml:3: nodes.a.gpu",
        "job.yaml:6: runtime.port",
        "job.yaml:7: runtime.prot",
    ]


def test_cross_checks_are_told_together():
    error = refusal(
        JOB.replace("L4", "L5").replace("links: {", "links: {nodes: [{between: [a, a], bandwidth: 1Gbps}], ")
    )
    assert [single.where.partition(": ")[2] for single in error.errors] == ["nodes.a.gpu", "links.nodes[0].between"]


@pytest.mark.parametrize(
    "text",
    [
        JOB.replace("{gpu: L4}", "{gpu: !!python/object:os.system L4}"),
        JOB.replace("{gpu: L4}", "!!set {gpu: L4}"),
        JOB.replace("L4", "!!binary aGVsbG8="),
    ],
)
def test_tags_are_refused(text):
    assert "tag" in refusal(text).problem


def test_no_pydantic_words_reach_the_user():
    text = str(refusal("model: 5\nnodes: {a: {gpu: L4, nic: 5, address: ''}, 'b c': {gpu: [1]}}\nversion: x\nname: 1"))
    for word in ("pydantic", "https://", "Input should", "Value error", "validation", "str_type", "type="):
        assert word not in text


def test_found_values_read_as_written():
    error = refusal(JOB + "solver: {gap: true, seed: 1.5, partial_inference: 'no'}\n")
    assert [single.found for single in error.errors] == ["the boolean true", "1.5", "'no'"]


# Models.


def test_relative_model_paths_start_at_the_job_file(tmp_path, monkeypatch):
    model = tmp_path / "models" / "m"
    model.mkdir(parents=True)
    (model / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,'
        ' "intermediate_size": 128, "vocab_size": 320}'
    )
    (tmp_path / "jobs").mkdir()
    file = tmp_path / "jobs" / "job.yaml"
    file.write_text(JOB.replace("random:tiny", "hf:../models/m"))
    monkeypatch.chdir(tmp_path / "models")
    assert load_job(file).model.source == f"hf:{model}"
    file.write_text(JOB.replace("random:tiny", "random:../models/m"))
    assert load_job(file).model.source == f"random:{model}"
    file.write_text(JOB)
    assert load_job(file).model.source == "random:tiny"


def test_context_is_held_against_the_model():
    error = refusal(JOB.replace("random:tiny", "random:tiny, context: 4096"))
    assert error.where == "job.yaml:1: model.context"
    assert "512" in error.expected


def test_a_declared_workload_has_to_fit_the_context_but_the_default_needs_not():
    parse_job(JOB)
    assert "workload" in refusal(JOB + "workload: {input_length: 600}\n").where


# Files.


@pytest.mark.parametrize("host", ["0.0.0.0", "'::'", "10.0.0.1", "example.com"])
def test_an_api_beyond_this_machine_needs_keys_or_the_word_for_it(host: str):
    error = refusal(f"{JOB}runtime: {{host: {host}}}\n")
    assert "runtime.host" in error.where
    assert "api-keys" in error.hint
    parse_job(f"{JOB}runtime: {{host: {host}, allow_anyone: true}}\n")
    parse_job(f"{JOB}runtime: {{host: {host}, api_keys: keys.json}}\n")
    assert "allow_anyone" in refusal(f"{JOB}runtime: {{api_keys: x, allow_anyone: true}}\n").where


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "'::1'"])
def test_an_api_on_this_machine_needs_none(host: str):
    parse_job(f"{JOB}runtime: {{host: {host}}}\n")


def test_files_of_the_api_start_at_the_folder_of_the_job():
    text = f"{JOB}runtime: {{api_keys: k.json, tls: {{certificate: c.pem, key: /abs/k.pem}}}}\n"
    runtime = parse_job(text, base=Path("/jobs")).runtime
    assert (runtime.api_keys, runtime.tls.certificate, runtime.tls.key) == (
        "/jobs/k.json",
        "/jobs/c.pem",
        "/abs/k.pem",
    )


def test_file_errors_name_the_file(tmp_path):
    for path, word in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "directory")):
        with pytest.raises(SpecError, match=word) as caught:
            load_job(path)
        assert caught.value.where == str(path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(SpecError, match="UTF-8"):
        load_job(str(tmp_path / "latin.yaml"))


def test_errors_name_the_file_and_line(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(JOB.replace("L4", "L5"))
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert caught.value.where == f"{path}:3: nodes.a.gpu"


def test_a_thousand_nodes_load_and_compile():
    from helix_df.graph.compile import compile_problem

    nodes = "\n".join(f"  n{i}: {{gpu: {('L4', 'T4', '2xT4')[i % 3]}, region: r{i % 7}}}" for i in range(1000))
    job = parse_job(JOB.replace("  a: {gpu: L4}", nodes).replace("random:tiny", "random:llama-2-70b, dtype: float16"))
    problem = compile_problem(job)
    assert len(problem.nodes) == 1000


def test_the_loader_is_not_pulling_in_heavy_modules():
    import subprocess
    import sys

    heavy = "'jax', 'flax', 'zmq', 'ortools', 'numpy'"
    code = f"import sys, helix_df.load; print([name for name in ({heavy}) if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert result.stdout.strip() == "[]"


HOSTS = """
model: {source: random:tiny}
nodes: {a: {gpu: L4, address: "10.0.0.2:7001"}}
coordinator: {address: "10.0.0.1:7000"}
links: {default: {bandwidth: 1Gbps}}
"""


@pytest.mark.parametrize(
    ("text", "encrypts"),
    [
        (HOSTS, True),
        (HOSTS + "runtime: {encryption: always}", True),
        (HOSTS + "runtime: {trust_network: true}", True),
        (HOSTS + "runtime: {encryption: never, trust_network: true}", False),
        (HOSTS.replace("10.0.0.", "127.0.0."), False),
        (HOSTS.replace("10.0.0.1", "[::1]").replace("10.0.0.2", "localhost"), False),
        (HOSTS.replace("10.0.0.1", "[fd00::1]").replace("10.0.0.2", "localhost"), True),
        (HOSTS.replace("10.0.0.", "127.0.0.") + "runtime: {encryption: always}", True),
        (HOSTS.replace("10.0.0.", "127.0.0.") + "runtime: {encryption: never}", False),
    ],
)
def test_what_leaves_the_machine_is_encrypted(text: str, encrypts: bool) -> None:
    assert parse_job(text).encrypts == encrypts


def test_nothing_leaves_the_machine_unencrypted_without_a_word() -> None:
    with pytest.raises(SpecError) as refused:
        parse_job(HOSTS + "runtime: {encryption: never}")
    told = str(refused.value)
    assert "runtime.encryption" in told
    assert "never, with 10.0.0.1:7000, 10.0.0.2:7001" in told
    assert "trust_network: true" in told

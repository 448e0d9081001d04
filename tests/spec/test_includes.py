"""A job that is spread over files is the job of one file, and what is wrong is told with the file that has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helix_df.errors import SpecError, SpecErrors
from helix_df.load import load_job, parse_job
from helix_df.plan.plan import read_plan, write_plan
from helix_df.planning import make_plan
from helix_df.spec.job import Job

WHOLE: dict[str, Any] = {
    "name": "fleet",
    "model": {"source": "random:llama-30b", "dtype": "float16"},
    "gpus": {"X": {"memory": "24GiB", "profile": {"compute": "100TFLOP/s", "bandwidth": "1TB/s"}}},
    "nodes": {"a": {"gpu": "X", "count": 8, "region": "paris"}, "b": {"gpu": "L4", "region": "oslo"}},
    "links": {"default": {"bandwidth": "1Gbps"}, "regions": [{"between": ["paris", "oslo"], "bandwidth": "5Gbps"}]},
    "limits": {"max_hops": 20, "avoid": ["b"]},
}

REST = "model: {source: random:tiny}\nlinks: {default: {bandwidth: 1Gbps}}\n"

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return path

    return file


def refusals(path: Path) -> list[SpecError]:
    with pytest.raises(SpecError) as caught:
        load_job(path)
    return list(caught.value.errors) if isinstance(caught.value, SpecErrors) else [caught.value]


def leaves(value: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    return [(path, value)]


def put(data: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
    data[path[-1]] = value


@given(st.data())
def test_a_job_in_parts_is_the_job_in_one_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("parts")
    parts: dict[str, dict[str, Any]] = {"job": {}, "one": {}, "two/three": {}, "two/four": {}}
    for path, value in leaves(WHOLE):
        put(parts[data.draw(st.sampled_from(sorted(parts)))], path, value)
        if data.draw(st.booleans()):  # what is said above goes before it
            other = data.draw(st.sampled_from(["one", "two/three"]))
            if path not in dict(leaves(parts["job"])):
                continue
            put(parts[other], path, data.draw(st.sampled_from([None, 7, "no", ["list"]])))
    parts["job"]["include"] = data.draw(st.permutations(["one.yaml", "two/three.yaml"]))
    parts["two/three"]["include"] = "four.yaml"
    (folder / "two").mkdir()
    for name, part in parts.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(part, sort_keys=False))
    assert load_job(folder / "job.yaml") == parse_job(yaml.safe_dump(WHOLE, sort_keys=False))


def test_a_plan_has_the_merged_job_and_no_word_of_its_files(write: Write, tmp_path: Path) -> None:
    write("gpus.yaml", yaml.safe_dump({"gpus": WHOLE["gpus"]}))
    write("nodes.yaml", yaml.safe_dump({"nodes": WHOLE["nodes"]}))
    rest = {key: WHOLE[key] for key in ("name", "model", "links")} | {"include": ["gpus.yaml", "nodes.yaml"]}
    job = load_job(write("job.yaml", yaml.safe_dump(rest)))
    plan = make_plan(job.with_solver(name="even"))
    write_plan(plan, tmp_path / "plan.json")
    document = json.loads((tmp_path / "plan.json").read_text())
    assert "include" not in document["job"]
    assert str(tmp_path) not in json.dumps(document)
    assert read_plan(tmp_path / "plan.json").job == plan.job
    assert Job.model_validate(job.model_dump(mode="json")) == job


def test_mistakes_name_the_file_that_has_them(write: Write) -> None:
    write("sites/paris.yaml", "nodes:\n  a: {gpu: L5}\n  b: {gpu: L4, count: 0}\n")
    write("gpus.yaml", "gpus:\n\n  X: {memory: 24}\n")
    path = write(
        "job.yaml",
        "include: [gpus.yaml, sites/paris.yaml]\nmodel: {source: random:tiny}\nlinks: {default: {bandwidth: 1Gbps}}\n",
    )
    where = {error.where for error in refusals(path)}
    assert where == {
        f"{path.parent}/gpus.yaml:3: gpus.X.memory",
        f"{path.parent}/sites/paris.yaml:3: nodes.b.count",
    }
    write("gpus.yaml", "")
    write("sites/paris.yaml", "nodes:\n  a: {gpu: L5}\n")
    assert [error.where for error in refusals(path)] == [f"{path.parent}/sites/paris.yaml:2: nodes.a.gpu"]
    write("sites/paris.yaml", "nodes:\n  a: {gpu: [}\n")
    assert refusals(path)[0].where == f"{path.parent}/sites/paris.yaml:2"


def test_what_two_parts_say_is_told_with_both_places(write: Write) -> None:
    write("one.yaml", "workload:\n  rate: 2.0\nsolver: mip\n")
    write("two.yaml", "solver: {time_limit: 5s}\n\nworkload: {input_length: 50, rate: 3.0}\n")
    rest = "include: [one.yaml, two.yaml]\nmodel: {source: random:tiny}\nnodes: {a: {gpu: L4}}\n"
    rest += "links: {default: {bandwidth: 1Gbps}}\n"
    path = write("job.yaml", rest)
    found = {error.where: error.problem for error in refusals(path)}
    folder = path.parent
    assert set(found) == {f"{folder}/two.yaml:3: workload.rate", f"{folder}/two.yaml:1: solver"}
    assert found[f"{folder}/two.yaml:3: workload.rate"].startswith(f"{folder}/one.yaml:2 says this, too")
    job = load_job(write("job.yaml", rest + "workload: {rate: 4.0}\nsolver: even\n"))
    assert (job.workload.rate, job.workload.input_length, job.solver.name) == (4.0, 50, "even")


def test_a_part_that_two_parts_include_is_there_once(write: Write) -> None:
    write("gpus.yaml", "gpus: {X: {memory: 24GiB, profile: {compute: 100TFLOP/s, bandwidth: 1TB/s}}}\n")
    write("paris.yaml", "include: gpus.yaml\nnodes: {a: {gpu: X}}\n")
    write("oslo.yaml", "include: gpus.yaml\nnodes: {b: {gpu: X}}\n")
    text = "include: [paris.yaml, oslo.yaml]\nmodel: {source: random:tiny}\nlinks: {default: {bandwidth: 1Gbps}}\n"
    assert list(load_job(write("job.yaml", text)).nodes) == ["a", "b"]


@pytest.mark.parametrize(
    ("said", "part", "where", "problem"),
    [
        ("none.yaml", "", "job.yaml:1: include", "there is no such file"),
        ("[part.yaml, none.yaml]", "", "job.yaml:1: include[1]", "there is no such file"),
        ("[5]", "", "job.yaml:1: include[0]", "of the wrong kind"),
        ("{part.yaml: 1}", "", "job.yaml:1: include", "of the wrong kind"),
        ("part.yaml", "include: job.yaml", "part.yaml:1: include", "include each other"),
        ("job.yaml", "", "job.yaml:1: include", "include each other"),
        (".", "", "job.yaml:1: include", "a directory"),
        ("part.yaml", "- a\n- b", "part.yaml", "not a part of a job"),
        ("part.yaml", "a: {\n", "part.yaml:2", "not valid YAML"),
        ("part.yaml", "nodse: {}", "part.yaml:1: nodse", "unknown key 'nodse'; did you mean 'nodes'?"),
    ],
)
def test_what_cant_be_included_is_told(write: Write, said: str, part: str, where: str, problem: str) -> None:
    write("part.yaml", part)
    path = write("job.yaml", f"include: {said}\n{REST}nodes: {{a: {{gpu: L4}}}}\n")
    (error,) = refusals(path)
    assert error.where == f"{path.parent}/{where}"
    assert problem in error.problem


def test_relative_paths_start_at_the_file_that_says_them(write: Write) -> None:
    write("site/api.yaml", "runtime: {api_keys: keys.json, tls: {certificate: ../cert.pem, key: key.pem}}\n")
    text = f"include: site/api.yaml\n{REST}nodes: {{a: {{gpu: L4}}}}\n"
    path = write("job.yaml", text + "runtime: {tls: {key: here.pem}}\n")
    runtime = load_job(path).runtime
    folder = path.parent
    assert runtime.api_keys == f"{folder}/site/keys.json"
    assert runtime.tls is not None
    assert (runtime.tls.certificate, runtime.tls.key) == (f"{folder}/cert.pem", f"{folder}/here.pem")

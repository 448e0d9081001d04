"""A plan knows its model: whoever runs it where another one lies is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helix_df.deployment import apply, plan_of
from helix_df.errors import PlanError
from helix_df.load import parse_job
from helix_df.plan.plan import Plan, from_document, read_plan, to_document, write_plan
from helix_df.plan.same_model import require_same_model
from helix_df.planning import make_plan
from helix_df.plans import job_and_plan
from helix_df.profiles.identity import differences, read_identity
from helix_df.spec.source import ModelSource, parse_source
from tests.cases.files import checkpoint, gguf_file

OLD = Path(__file__).parent.parent / "data" / "compat" / "0.1.0" / "two-sites.plan.json"


def plan_for(source: ModelSource) -> Plan:
    text = (
        f"model: {{source: '{source}'}}\nnodes: {{one: {{gpu: L4}}}}\n"
        "links: {default: {bandwidth: 1Gbps}}\nsolver: {name: swarm}\n"
    )
    return make_plan(parse_job(text))


def told(source: ModelSource, then: Plan) -> list[str]:
    assert then.model is not None
    return differences(then.model, read_identity(source))


@pytest.mark.parametrize("make", [checkpoint, gguf_file], ids=["hf", "gguf"])
def test_the_same_files_are_the_same_model_wherever_they_lie(make, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = read_identity(make(tmp_path / "a")), read_identity(make(tmp_path / "b"))
    assert one == other
    assert one.tensors is not None
    assert one.sample is not None


def test_other_weights_formats_and_dimensions_are_noticed(tmp_path):
    source = checkpoint(tmp_path)
    plan = plan_for(source)
    assert told(source, plan) == []

    def halve(tensors):
        for name in tensors:
            tensors[name] = tensors[name] / 2

    checkpoint(tmp_path, edit=halve)
    assert told(source, plan) == ["the weights are others of the same shapes"]

    def shorten(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(np.float16)

    checkpoint(tmp_path, edit=shorten)
    assert told(source, plan) == ["the tensors have other names, shapes or number formats"]
    checkpoint(tmp_path, config={"rope_theta": 5000.0})
    assert told(source, plan) == ["rope_theta: 10000.0 in the plan, 5000.0 here"]


def test_what_does_not_change_the_model_is_let_pass(tmp_path):
    source = checkpoint(tmp_path)
    plan = plan_for(source)
    checkpoint(tmp_path, config={"transformers_version": "99", "_name_or_path": "elsewhere"}, files={"notes.json": {}})
    assert told(source, plan) == []
    (Path(source.location) / "model.safetensors").unlink()  # not copied to this machine yet
    assert told(source, plan) == []


def test_random_weights_are_their_geometry():
    identity = read_identity(parse_source("random:tiny"))
    assert (identity.tensors, identity.sample) == (None, None)
    assert differences(identity, read_identity(parse_source("random:llama-30b")))


def test_a_plan_for_another_model_is_refused_and_says_the_way_out(tmp_path):
    source = checkpoint(tmp_path)
    path = tmp_path / "job.plan.json"
    write_plan(plan_for(source), path)
    assert plan_of(path).model is not None
    checkpoint(tmp_path, config={"rms_norm_eps": 0.5})
    for run in (lambda: plan_of(path), lambda: apply(path), lambda: job_and_plan(path)):
        with pytest.raises(PlanError, match="another than the plan was made for") as error:
            run()
        assert "rms_norm_eps" in str(error.value.found)
        assert "--force" in str(error.value.hint)


def test_force_runs_it_with_a_warning(tmp_path):
    source = checkpoint(tmp_path)
    path = tmp_path / "job.plan.json"
    write_plan(plan_for(source), path)
    checkpoint(tmp_path, config={"rms_norm_eps": 0.5})
    with pytest.warns(UserWarning, match="rms_norm_eps"):
        assert plan_of(path, force=True).job.name == "helix"
    notes: list[str] = []
    assert job_and_plan(path, force=True, on_note=notes.append)[1] is not None
    assert [note.partition(" hf:")[0] for note in notes] == ["the model"]


def test_a_plan_of_an_earlier_release_gives_a_note():
    notes: list[str] = []
    plan = require_same_model(read_plan(OLD), str(OLD), on_note=notes.append)
    assert plan.made_by is None
    assert len(notes) == 1
    assert "doesn't say which model" in notes[0]


def test_a_plan_says_who_made_it_and_newer_files_are_refused_with_that(tmp_path):
    import helix_df

    plan = plan_for(parse_source("random:tiny"))
    assert plan.made_by == helix_df.__version__
    document = json.loads(json.dumps(to_document(plan)))
    assert from_document(document) == plan
    with pytest.raises(PlanError, match="newer version") as error:
        from_document({**document, "version": 99, "made_by": "9.9"})
    assert "made by helix-df 9.9" in str(error.value.found)
    assert "upgrade" in str(error.value.hint)
    with pytest.raises(PlanError, match="unknown version"):
        from_document({**document, "version": "x"})
    with pytest.raises(PlanError, match="the model inside the plan"):
        from_document({**document, "model": {"geometry": 3}})

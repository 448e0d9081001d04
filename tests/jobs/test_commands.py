"""The commands, against fake daemons."""

from __future__ import annotations

import io
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.cli.main import main
from helix_df.cli.top import tokens_per_s
from helix_df.layers import LayerRange
from helix_df.plan.plan import read_plan, write_plan
from helix_df.runtime.coordinator.recorded import RecordedCoordinator
from helix_df.runtime.jobs.lifecycle import stop_daemon
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.messages import Sampled
from property_tests.runtime_world import World, toy_plan
from tests.jobs.conftest import JOB, tiny_plan
from tests.jobs.test_daemon import ready


@pytest.fixture
def cli(capsys):
    """Runs a command; gives its exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


def test_nothing_runs(cli):
    assert cli("status") == (0, "no job is running; `helix-df apply JOB.yaml` starts one\n", "")
    assert cli("down") == (0, "no job is running\n", "")
    assert cli("down", "--all") == (0, "no job is running\n", "")
    code, _, err = cli("generate", "hi")
    assert code == 7
    assert "no job is running" in err


def test_generate(cli, start):
    ready(*start("ok"))
    assert cli("generate", "Say", "--max-tokens", "50") == (0, "Hello from a daemon\n", "")
    assert cli("generate", "tiny", "Say", "--chat", "--stop", " a")[1] == "Hello from\n"
    code, _, err = cli("generate", "x" * 300)
    assert code == 1
    assert "maximum context length" in err


def test_generate_as_json(cli, start):
    ready(*start("ok"))
    whole = json.loads(cli("generate", "Say", "--max-tokens", "50", "--json")[1])
    assert (whole["text"], whole["finish_reason"], whole["prompt_tokens"]) == ("Hello from a daemon", "stop", 3)
    assert json.loads(cli("generate", "Say", "--chat", "--max-tokens", "5", "--json")[1])["text"] == "Hello"
    code, out, err = cli("generate", "x" * 300, "--json")
    assert code == 1
    assert json.loads(out)["errors"][0]["problem"] in err


def test_down_as_json(cli, start):
    assert json.loads(cli("down", "--json")[1]) == {"jobs": []}
    ready(*start("ok"))
    assert json.loads(cli("down", "tiny", "--json")[1]) == {"jobs": [{"name": "tiny", "was_running": True}]}
    assert json.loads(cli("down", "tiny", "--json")[1]) == {"jobs": [{"name": "tiny", "was_running": False}]}


def test_a_chat_of_several_lines(cli, start, monkeypatch):
    """Each line is a question; nothing but answers is printed where nobody types."""
    ready(*start("ok"))
    monkeypatch.setattr("sys.stdin", io.StringIO("Who are you?\n\n/new\nWho?\n"))
    code, out, err = cli("chat", "--max-tokens", "50", "--system", "Say")
    assert (code, out.splitlines(), err) == (0, ["Hello from a daemon", "Hello from a daemon", ""], "")
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 300))
    code, _, err = cli("chat")
    assert code == 1
    assert "maximum context length" in err


def test_top_shows_nodes_and_links(cli, start):
    ready(*start("ok"))
    code, out, err = cli("top", "--times", "2", "--every", "0.1")
    assert (code, err) == (0, "")
    assert "job job is ready · 0.0 tokens/s generated" in out
    assert "[0, 2)" in out
    assert "planned" in out


@given(st.integers(0, 10**9), st.none() | st.integers(0, 10**9), st.just(0.0) | st.floats(1e-3, 100))
def test_rates_are_never_negative(now, before, seconds):
    rate = tokens_per_s(now, before, seconds)
    if before is None or not seconds or now < before:
        assert rate == 0
    else:
        assert rate * seconds == pytest.approx(now - before)


def test_status_of_one(cli, start):
    ready(*start("ok"))
    code, out, _ = cli("status")
    assert code == 0
    assert "job job is ready" in out
    assert "[0, 2)" in out
    status = json.loads(cli("status", "tiny", "--json")[1])
    assert [node["name"] for node in status["nodes"]] == ["left", "right"]
    assert status["nodes"][1]["join_command"] == "HELIX_DF_TOKEN=secret join"


def test_several_jobs(cli, start):
    ready(*start("ok", "one"))
    ready(*start("ok", "two"))
    code, out, _ = cli("status")
    assert code == 0
    assert "one" in out
    assert "two" in out
    assert {job["name"] for job in json.loads(cli("status", "--json")[1])["jobs"]} == {"one", "two"}
    code, _, err = cli("down")
    assert code == 7
    assert "one of one, two" in err
    assert cli("down", "--all") == (0, "job one is down\njob two is down\n", "")
    assert cli("down", "one") == (0, "job one is not running\n", "")


def test_logs(cli, start):
    job, process = start("ok")
    ready(job, process)
    job.log_path("a").write_text("".join(f"{number}\n" for number in range(9)))
    assert cli("logs", "--node", "a", "--tail", "2")[1] == "7\n8\n"
    everything = cli("logs")[1]
    assert "coordinator | " in everything
    assert "a | 8\n" in everything
    code, _, err = cli("logs", "--node", "zebra")
    assert code == 7
    assert "coordinator" in err
    stop_daemon(job)
    assert "INFO helix_df.daemon: ready" in cli("logs", "tiny", "--follow", "--node", "coordinator")[1]


def test_apply_of_what_runs_already(cli, start, tmp_path):
    ready(*start("ok"))
    job_file = tmp_path / "job.yaml"
    job_file.write_text(JOB.replace("NAME", "tiny"))
    code, out, _ = cli("apply", str(job_file))
    assert code == 0
    assert "already running with this plan at http://" in out
    job_file.write_text(JOB.replace("NAME", "tiny").replace("128", "64"))
    code, _, err = cli("apply", str(job_file))
    assert code == 7
    assert "helix-df down tiny" in err


def test_apply_of_an_edited_job_changes_the_one_that_runs(cli, start, tmp_path):
    job, _ = start("ok")
    ready(job, _)
    job_file = tmp_path / "job.yaml"
    job_file.write_text(JOB.replace("NAME", "tiny").replace("port: 0", "port: 0, max_queue: 7"))
    code, out, err = cli("apply", str(job_file))
    assert code == 0, err
    assert "job tiny serves by the new plan" in out
    assert read_plan(job.plan_path).job.runtime.max_queue == 7
    assert "already running" in cli("apply", str(job_file))[1]


def test_drain_says_why_not(cli, start):
    ready(*start("ok"))
    code, _, err = cli("drain", "zebra")
    assert code == 7
    assert "there is no node zebra" in err


def test_down_lets_answers_end(cli, start):
    job, _ = start("ok")
    ready(job, _)
    assert cli("down", "tiny", "--grace", "20")[:2] == (0, "job tiny is down\n")
    assert not job.is_running()


def test_apply_refuses_a_wrong_plan(cli, tmp_path):
    plan_file = tmp_path / "plan.json"
    write_plan(tiny_plan(), plan_file)
    document = json.loads(plan_file.read_text())
    document["flow"] *= 2
    plan_file.write_text(json.dumps(document))
    code, _, err = cli("apply", str(plan_file))
    assert code == 4
    assert "doesn't fit its job" in err


def test_apply_refuses_the_plan_of_another_job(cli, tmp_path):
    write_plan(tiny_plan(), tmp_path / "plan.json")
    job_file = tmp_path / "job.yaml"
    job_file.write_text(JOB.replace("NAME", "tiny").replace("128", "64"))
    code, _, err = cli("apply", str(job_file), "--plan", str(tmp_path / "plan.json"))
    assert code == 4
    assert "another job" in err


def test_apply_refuses_a_bad_name(cli, tmp_path):
    write_plan(tiny_plan(), tmp_path / "plan.json")
    code, _, err = cli("apply", str(tmp_path / "plan.json"), "--name", "../x")
    assert code == 2
    assert "--name" in err


def test_apply_reports_a_taken_port(cli, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        job_file = tmp_path / "job.yaml"
        job_file.write_text(JOB.replace("NAME", "tiny").replace("port: 0", f"port: {port}"))
        code, _, err = cli("apply", str(job_file))
    assert code == 7
    assert f"runtime.port: port {port} is taken" in err
    assert cli("status")[1].startswith("no job is running")


def test_logs_of_events(cli, start):
    job, process = start("ok")
    ready(job, process)
    world = World(toy_plan({"a": LayerRange(0, 1), "b": LayerRange(1, 2)}, 2, 64))
    recorded = RecordedCoordinator(world.coordinator, lambda: world.now, job.events_path())
    for name, prompt in (("r0", tuple(range(20))), ("r00", (1, 2))):
        recorded.submit(GenerationRequest(name, prompt, 3, SamplingParams()))
    recorded.on_message(Sampled("r0/1", 20, 5, None), 0.0)
    recorded.cancel("r0")
    recorded.events.flush()
    lines = cli("logs", "--events")[1].splitlines()
    assert [line.split(" ", 4)[2:4] for line in lines] == [["coordinator", f"#{number}"] for number in range(4)]
    assert "submit request=r0 prompt=[0, 1, 2, 3, 4, 5, 6, 7, … 20 in all] max_tokens=3" in lines[0]
    assert lines[2].endswith("sampled request=r0/1 position=20 token=5 logprobs=None more=[]")
    story = cli("logs", "--request", "r0", "--node", "coordinator", "--json", "--tail", "0")[1].splitlines()
    assert [json.loads(line)["event"] for line in story] == ["submit", "sampled", "cancel"]
    assert json.loads(story[0])["values"][1] == list(range(20))
    assert len(cli("logs", "--events", "--tail", "1")[1].splitlines()) == 1
    code, _, err = cli("logs", "--events", "--node", "zebra")
    assert code == 7
    assert "no log of events of zebra" in err

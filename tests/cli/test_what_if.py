"""``helix-df simulate`` with several plans, what-ifs, sweeps and a page: rows, files, and one clear error."""

import json
from pathlib import Path

import pytest

from helix_df.cli.main import main
from helix_df.load import load_job
from helix_df.plan.plan import read_plan, write_plan
from helix_df.planning import make_plan

JOB = Path(__file__).parents[2] / "spec" / "examples" / "two-sites.yaml"
SHORT = ("--seconds", "40", "--warmup", "10", "--trace", "poisson:input=200,output=20", "--rate", "0.5")


def run(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        main(["simulate", *(str(arg) for arg in args)])
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    for solver in ("even", "cover"):
        write_plan(make_plan(load_job(JOB).with_solver(name=solver)), folder / f"{solver}.json")
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(out):
    lines = out.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("variant")) + 1 :]


def test_two_plans_have_a_row_each_and_a_page_and_json(plans, capsys):
    code, out, err = run(
        capsys, plans / "even.json", plans / "cover.json", *SHORT, "--html", "page.html", "--json", "both.json"
    )
    assert (code, err) == (0, "\nwritten to page.html\n")
    assert [row.split()[0] for row in rows(out)] == ["even", "cover"]
    assert all(len(line) <= 120 for line in out.splitlines())
    document = json.loads(Path("both.json").read_text())
    assert [one["name"] for one in document["variants"]] == ["even", "cover"]
    assert [one["flow"] for one in document["variants"]] == [
        read_plan(plans / f"{name}.json").flow for name in ("even", "cover")
    ]
    page = Path("page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert f"{document['variants'][1]['decode_tokens_per_s']:,.1f}" in page


def test_a_what_if_stands_beside_what_is(plans, capsys):
    plan = plans / "even.json"
    code, out, _ = run(capsys, plan, *SHORT, "--add-node", "T4:2@lab", "--link", "home-lab=1Gbps")
    assert code == 0
    before, after, *folded = rows(out)
    assert before.startswith("as planned  ")
    words = " ".join([after.partition("  ")[0], *(line.strip() for line in folded)])
    assert words == "with 2 T4 in lab, home-lab at 1,000 Mbit/s"
    kept = rows(run(capsys, plan, *SHORT, "--link", "home-lab=1Mbps", "--keep-placement", "--time-limit", "5s")[1])
    assert len(kept) == 2
    assert kept[0].split() == before.split()


def test_sweeps(plans, capsys):
    plan = plans / "cover.json"
    code, out, _ = run(capsys, plan, *SHORT, "--sweep", "rate=0.2,0.5")
    assert code == 0
    assert [row[:8] for row in rows(out)] == ["rate 0.2", "rate 0.5"]
    alone = json.loads(run(capsys, plan, *SHORT, "--json", "-")[1])
    both = json.loads(run(capsys, plan, *SHORT, "--sweep", "rate=0.2,0.5", "--json", "-")[1])
    assert both["variants"][1]["outcome"]["latency_s"] == alone["latency_s"]
    for sweep in ("scheduler=flow,random", "seed=0,1", "in-flight=1,4"):
        # How many are in flight says how many come, so a rate would contradict it.
        given = SHORT[:-2] if sweep.startswith("in-flight") else SHORT
        code, out, _ = run(capsys, plan, *given, "--sweep", sweep)
        assert (code, len(rows(out))) == (0, 2)
    code, out, _ = run(capsys, plan, *SHORT, "--sweep", "link.home-lab=1Mbps,1Gbps", "--keep-placement")
    assert (code, len(rows(out))) == (0, 3)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--add-node", "L5"), 2, "no GPU called 'L5'; did you mean 'L4'?"),
        (("--add-node", "T4"), 2, "several regions"),
        (("--remove-node", "lap1"), 2, "no node called 'lap1'; did you mean 'lab1'?"),
        (("--link", "home-lap=1Gbps"), 2, "no region called 'lap'; did you mean 'lab'?"),
        (("--link", "home-lab=1"), 2, "unit is missing"),
        (("--sweep", "speed=1"), 2, "can't be swept"),
        (("--sweep", "rate=1,fast"), 2, "rate can't be this"),
        (("--sweep", "scheduler=flow,fastest"), 9, "fastest"),
        (("--add-node", "T4@lab", "--time-limit", "soon"), 2, "--time-limit"),
        (("--remove-node", "desk", "--remove-node", "tower"), 3, "layers"),
        (("--html", "nowhere/page.html"), 9, "nowhere/page.html"),
    ],
)
def test_bad_input_is_one_error(plans, capsys, args, code, words):
    given, out, err = run(capsys, plans / "even.json", *SHORT, *args)
    assert (given, out) == (code, "")
    assert err.count("error:") == 1
    assert words in err
    assert "Traceback" not in err

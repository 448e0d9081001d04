"""``helix-df profile`` and ``helix-df probe``: what they print, and how mistakes end."""

from __future__ import annotations

import pytest

from helix_df.cli.main import main
from helix_df.load import load_job
from helix_df.measuring.differences import Difference
from helix_df.measuring.prober import MeasuredLink


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Runs a command; gives its exit code, stdout and stderr."""
    monkeypatch.setenv("HELIX_DF_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("HELIX_DF_TOKEN", raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


def test_profile_writes_yaml_that_a_job_takes(cli, tmp_path):
    out = tmp_path / "gpus.yaml"
    sizes = ("--layers", "1", "--prefill", "16", "--decode", "1", "--repeat", "2")
    code, text, _ = cli("profile", "random:tiny", *sizes, "--out", str(out))
    assert code == 0
    assert "ms per layer" in text
    rest = "model: {source: random:tiny}\nnodes: {a: {gpu: measured}}\nlinks: {default: {bandwidth: 1Gbps}}\n"
    job = tmp_path / "job.yaml"
    job.write_text(out.read_text() + rest)
    assert load_job(job).gpus["measured"].profile.prefill_ms[0][0] == 16
    assert cli("plan", str(job), "--out", str(tmp_path / "plan.json"))[0] == 0


def test_profile_warns_where_the_job_says_something_else(cli, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(
        "model: {source: random:tiny}\n"
        "gpus: {g: {memory: 1GiB, profile: {prefill_ms: [[16, 90000]], decode_ms: [[1, 90000]]}}}\n"
        "nodes: {a: {gpu: g}}\nlinks: {default: {bandwidth: 1Gbps}}\n"
    )
    code, _, err = cli("profile", str(job), "--layers", "1", "--prefill", "16", "--decode", "1", "--repeat", "1")
    assert code == 0
    assert err.count("warning: g, ") == 2
    assert "expected 90000 ms per layer" in err


def test_a_trace_is_written_and_read(cli, tmp_path):
    folder = tmp_path / "new" / "trace"
    code, text, _ = cli("profile", "random:tiny", "--trace", str(folder), "--repeat", "1")
    assert code == 0
    assert "layers [0, 4) on cpu" in text
    assert "attention by gather" in text
    for scope in ("attention/attend", "attention/qkv", "mlp", "embed", "logits", "sample"):
        assert f"\n{scope} " in text
    (written,) = folder.glob("plugins/profile/*/*.trace.json.gz")
    assert str(written.parent) in text
    assert "gpus:" not in text


def test_a_trace_that_cannot_be_written_is_refused(cli, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = cli("profile", "random:tiny", "--trace", str(tmp_path / "file"))
    assert code != 0
    assert "no trace can be written there" in err
    assert f"{tmp_path / 'file'}: File exists" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("profile", "random:tiny", "--layers", "1,x"), "not a list of sizes"),
        (("profile", "random:tiny", "--decode", "0"), "not a list of sizes"),
        (("profile", "random:tiny", "--layers", "99"), "fewer layers"),
        (("profile", "nothing.yaml"), "no such file"),
        (("profile", "what"), "model.source"),
        (("profile", "random:tiny", "--node", "z"), "no such node"),
        (("profile", "random:tiny", "--trace", "x", "--out", "y"), "no YAML to write"),
        (("probe", "--listen", "nowhere"), "the address has no port"),
        (("probe", "10.0.0.1:x"), "not an address"),
        (("probe", "10.0.0.1:7000"), "need a secret"),
        (("probe", "--loopback", "job"), "either targets"),
        (("probe", "job"), "no job job"),
        (("probe",), "no job is running"),
    ],
)
def test_mistakes_are_one_message(cli, arguments, words):
    code, _, err = cli(*arguments)
    assert code in (2, 6, 7)
    assert words in err
    assert "Traceback" not in err


def test_apply_warns_in_one_line_of_what_is_slower_and_goes_on(monkeypatch, capsys):
    from helix_df import deployment
    from helix_df.cli.apply import _warn
    from helix_df.cli.console import messages
    from helix_df.errors import DeploymentError

    def gone(name):
        raise DeploymentError("gone")

    slower, slowest = Difference("job: a", 1.0, 2.0, "ms"), Difference("job: b", 9.0, 3.0, "tokens/s")
    faster = Difference("job: c", 4.0, 1.0, "ms"), Difference("job: d", 1.0, 5.0, "tokens/s")
    monkeypatch.setattr(deployment, "differences", lambda name: (slower, slowest, *faster))
    _warn("job", messages())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: job: b: measured 3 tokens/s, expected 9 tokens/s (3.0 times apart), and 1 more slower than planned; "
    )
    assert "helix-df profile" in line
    monkeypatch.setattr(deployment, "differences", lambda name: faster)
    _warn("job", messages())
    monkeypatch.setattr(deployment, "differences", gone)
    _warn("job", messages())
    assert capsys.readouterr() == ("", "")


def test_probe_prints_a_table_and_yaml(cli, monkeypatch):
    from helix_df.measuring import probing

    def probed(addresses, token, *, on_link):
        return probing.Probed(
            (MeasuredLink(("coordinator", "a"), ((64, 0.0002), (1_000_064, 0.0022))),), (), ("a remark",)
        )

    monkeypatch.setattr(probing, "probe_addresses", probed)
    code, out, err = cli("probe", "a=127.0.0.1:7000")
    assert code == 0
    assert out.splitlines()[-1] == "    - {between: [coordinator, a], bandwidth: 1000MB/s, latency: 100us}"
    assert err == "note: a remark\n"
    assert cli("probe", "127.0.0.1:7000")[1].endswith("links:\n  default: {bandwidth: 1000MB/s, latency: 100us}\n")

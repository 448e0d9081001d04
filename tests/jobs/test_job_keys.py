"""Keys of jobs: made once, for the owner's eyes, and refused in words where they aren't keys."""

from __future__ import annotations

import json
import logging
import os

import pytest

import helix_df
from helix_df.cli.main import main
from helix_df.errors import DeploymentError, SpecError
from helix_df.runtime.jobs import job_keys
from helix_df.runtime.jobs.directory import job_directory
from helix_df.runtime.jobs.job_keys import kept_keys, make_keys, new_keys, read_worker_key
from helix_df.runtime.wire.keys import KeyPair


def test_keys_are_made_once_and_anew_when_asked(tmp_path):
    first = make_keys("pair", root=tmp_path)
    assert make_keys("pair", root=tmp_path) == first
    assert kept_keys(job_directory("pair", tmp_path)) == first
    renewed = make_keys("pair", renew=True, root=tmp_path)
    assert renewed.keys.token != first.keys.token
    assert renewed.keys.coordinator.secret != first.keys.coordinator.secret
    assert make_keys("pair", root=tmp_path) == renewed


def test_only_the_owner_reads_them_and_nothing_shows_them(tmp_path, capsys):
    made = make_keys("pair", root=tmp_path)
    job = job_directory("pair", tmp_path)
    assert made.worker_key == job.worker_key_path
    for path in (job.keys_path, job.worker_key_path):
        assert path.stat().st_mode & 0o777 == 0o600
    secrets = (made.keys.token, made.keys.coordinator.secret)
    assert not any(secret in repr(made) + str(made.keys) for secret in secrets)


def test_a_worker_gets_the_secret_and_no_more_of_the_coordinators_pair_than_is_public(tmp_path):
    made = make_keys("pair", root=tmp_path)
    key = read_worker_key(made.worker_key)
    assert (key.token, key.coordinator) == (made.keys.token, made.keys.coordinator.public)
    assert made.keys.coordinator.secret not in made.worker_key.read_text()


def test_a_file_that_others_can_read_is_told_of(tmp_path, caplog):
    made = make_keys("pair", root=tmp_path)
    made.worker_key.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        read_worker_key(made.worker_key)
    assert "chmod 600" in caplog.text


@pytest.mark.parametrize(
    "text", ["", "[]", "\xff", "{}", '{"secret": "", "coordinator": null}', '{"secret": "x", "coordinator": "short"}']
)
def test_what_is_no_key_is_refused_with_its_place(tmp_path, text):
    path = tmp_path / "pair.key"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DeploymentError, match="not a key file") as refused:
        read_worker_key(path)
    assert refused.value.where == str(path)
    job = job_directory("pair", tmp_path)
    job.path.mkdir()
    job.keys_path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DeploymentError, match="--renew"):
        kept_keys(job)
    assert kept_keys(job, renew=True).keys.token


def test_the_coordinators_keys_are_not_what_a_worker_takes(tmp_path):
    make_keys("pair", root=tmp_path)
    with pytest.raises(DeploymentError, match=r"not keys\.json"):
        read_worker_key(job_directory("pair", tmp_path).keys_path)
    with pytest.raises(DeploymentError, match="there is no key file"):
        read_worker_key(tmp_path / "missing.key")


@pytest.mark.parametrize("name", ["", "../elsewhere", "a/b", "x" * 64, ".hidden"])
def test_names_that_are_none_make_no_folder(tmp_path, name):
    with pytest.raises(SpecError, match="can't be a job's name"):
        make_keys(name, root=tmp_path / "jobs")
    assert not list(tmp_path.iterdir())


def test_where_zeromq_can_not_encrypt_there_is_still_a_secret(tmp_path, monkeypatch):
    monkeypatch.setattr(job_keys, "can_encrypt", lambda: False)
    made = make_keys("plain", root=tmp_path)
    assert made.keys.coordinator is None
    assert make_keys("plain", root=tmp_path) == made
    assert read_worker_key(made.worker_key).coordinator is None
    monkeypatch.undo()
    with pytest.raises(DeploymentError, match="--renew"):
        make_keys("plain", root=tmp_path)
    assert isinstance(new_keys().coordinator, KeyPair)


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code or 0


def test_the_command_names_the_file_and_never_a_secret(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HELIX_DF_STATE", str(tmp_path))
    job = tmp_path / "pair.yaml"
    job.write_text(
        "name: pair\nmodel: {source: random:tiny}\nnodes: {a: {gpu: L4}}\nlinks: {default: {bandwidth: 1Gbps}}\n"
    )
    assert run("keys", str(job)) == 0
    out = capsys.readouterr().out
    made = helix_df.make_keys("pair")
    assert f"scp {made.worker_key} HOST:" in out
    assert run("keys", "pair", "--renew") == 0
    out += capsys.readouterr().out
    for keys in (made.keys, helix_df.make_keys("pair").keys):
        assert keys.token not in out
        assert keys.coordinator.secret not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--join", "tcp://127.0.0.1:9"), "needs the job's secret"),
        (("--join", "curve://127.0.0.1:9", "--key-file", "KEY"), "one address is encrypted"),
        (
            ("--join", "curve://127.0.0.1:9", "--listen", "curve://127.0.0.1:*", "--key-file", "BARE"),
            "public key is missing",
        ),
        (("--join", "tcp://127.0.0.1:9", "--key-file", "nowhere"), "there is no key file"),
    ],
)
def test_a_worker_that_can_not_come_in_says_why(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.delenv("HELIX_DF_TOKEN", raising=False)
    bare = tmp_path / "bare.key"
    bare.write_text(json.dumps({"secret": "x", "coordinator": None}))
    files = {"KEY": str(make_keys("pair", root=tmp_path).worker_key), "BARE": str(bare)}
    code = run("worker", "--node", "a", *(files.get(one, one) for one in arguments))
    assert code == DeploymentError.exit_code
    assert words in capsys.readouterr().err


def test_keys_of_a_job_that_runs_stay(tmp_path):
    first = make_keys("pair", root=tmp_path)
    lock = job_directory("pair", tmp_path).lock()
    try:
        with pytest.raises(DeploymentError, match="down pair"):
            make_keys("pair", renew=True, root=tmp_path)
        assert make_keys("pair", root=tmp_path) == first
    finally:
        os.close(lock)

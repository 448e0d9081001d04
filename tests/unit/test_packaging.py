"""What the package says of itself: one version, extras that agree with imports, examples and schema that are found."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import helix_df
from helix_df.errors import MissingExtra, SpecError
from helix_df.extras import EITHER, PLANNING, SERVING, explained_imports, missing_extra
from helix_df.load import load_job
from helix_df.spec.schema import schema_text
from helix_df.spec.shipped import find_example, shipped_root

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
MODULES = {"huggingface-hub": "huggingface_hub", "pyzmq": "zmq", "prometheus-client": "prometheus_client"}

# Imports what the first argument names, where the packages of the others can't be imported.
WITHOUT = """
import sys
from importlib import import_module

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from helix_df.cli.main import main
main(sys.argv[1].split())
"""


def modules(extra):
    names = [re.split(r"[<>=\[]", requirement)[0] for requirement in EXTRAS[extra]]
    return {MODULES.get(name, name) for name in names}


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    shown = subprocess.run([sys.executable, "-m", "helix_df", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"helix-df {helix_df.__version__}\n"


def test_extras_and_the_table_of_missing_packages_agree():
    assert modules("plan") == PLANNING | EITHER
    assert modules("serve") == (SERVING - {"jaxlib"}) | EITHER
    assert EXTRAS["all"] == ["helix-df[plan,serve]"]


@pytest.mark.parametrize("package", sorted(PLANNING | SERVING | EITHER))
def test_a_missing_package_of_an_extra_is_explained(package):
    with pytest.raises(MissingExtra, match=f"need {package}") as caught, explained_imports():
        raise ModuleNotFoundError(f"No module named '{package}.part'", name=f"{package}.part")
    assert caught.value.hint.startswith("pip install 'helix-df[")


def test_other_missing_packages_are_not_explained_away():
    assert missing_extra(ModuleNotFoundError("No module named 'turtles'", name="turtles")) is None
    assert missing_extra(ModuleNotFoundError("no name")) is None


@pytest.mark.parametrize(
    ("command", "absent", "extra"),
    [
        ("plan spec/examples/quickstart.yaml", PLANNING, "plan"),
        ("apply spec/examples/quickstart.yaml", SERVING, "serve"),
        ("worker --join tcp://127.0.0.1:1 --node a", SERVING, "serve"),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(command, absent, extra):
    done = subprocess.run([sys.executable, "-c", WITHOUT, command, *absent], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == MissingExtra.exit_code
    assert f"pip install 'helix-df[{extra}]'" in done.stderr


@pytest.mark.parametrize("command", ["examples", "schema", "validate spec/examples/quickstart.yaml", "solvers"])
def test_the_base_takes_no_extra(command):
    absent = PLANNING | SERVING | EITHER
    done = subprocess.run([sys.executable, "-c", WITHOUT, command, *absent], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_examples_are_found_by_name():
    found = helix_df.examples()
    assert list(found) == sorted(path.stem for path in (ROOT / "spec/examples").glob("*.yaml"))
    assert load_job(find_example("quickstart")).name == "quickstart"
    with pytest.raises(SpecError, match="no such example") as caught:
        find_example("quickstrat")
    assert caught.value.hint == "helix-df examples quickstart"


def test_the_schema_lies_with_the_examples():
    assert (shipped_root() / "schema.json").read_text("utf-8") == schema_text()


def test_the_wheel_carries_what_the_source_tree_has_in_spec():
    carried = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {name for name in carried if not (ROOT / name).exists()} == set()
    assert {Path(place).relative_to("helix_df/shipped").parts[0] for place in carried.values()} == {
        path.name for path in (ROOT / "spec").iterdir()
    }


def test_constraints_name_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()[1:]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    pinned = {line.partition("==")[0] for line in lines}
    wanted = {re.split(r"[<>=\[]", each)[0] for extra in EXTRAS.values() for each in extra} - {"helix-df"}
    assert {name.lower() for name in wanted} <= pinned


def test_every_dependency_has_its_reason():
    told = (ROOT / "docs/dependencies.md").read_text("utf-8").lower()
    wanted = [*PROJECT["project"]["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
    names = {re.split(r"[<>=\[]", each)[0].lower() for each in wanted} - {"helix-df"}
    unnamed = {name for name in names if name.removeprefix("pytest-").removeprefix("types-") not in told}
    assert unnamed - {"types-pyyaml", "types-networkx"} == set()

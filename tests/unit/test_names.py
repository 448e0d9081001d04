"""One class, one name: whoever searches for a class finds one definition."""

from pathlib import Path

from benchmarks.tree_table import read_tree, twice

ROOT = Path(__file__).parents[2]


def test_no_class_name_is_defined_twice() -> None:
    # Without leading underscores: a reader who meets _Link thinks of Link.
    assert twice(read_tree(ROOT)) == {}


def test_a_second_definition_is_noticed(tmp_path: Path) -> None:
    package = tmp_path / "helix_df"
    package.mkdir()
    (package / "one.py").write_text("class Link:\n    pass\n")
    (package / "two.py").write_text("def make():\n    class _Link:\n        pass\n")
    assert twice(read_tree(tmp_path)) == {"Link": 2}


def test_the_glossary_fits_a_screen_and_says_each_term_once() -> None:
    lines = (ROOT / "docs" / "glossary.md").read_text("utf-8").splitlines()
    terms = [line.split("**")[1] for line in lines if line.startswith("| **")]
    assert 30 <= len(terms) <= 60
    assert len(set(terms)) == len(terms)
    assert all(line.count("|") == 4 and len(line) <= 150 for line in lines if line.startswith("| **"))

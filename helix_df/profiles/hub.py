"""Models of the Hugging Face hub: pinned to a commit, and mirrored on this machine as far as they are needed.

A mirror is a folder as any other checkpoint's. What describes a model is there whole; a file of weights is as long as
the real one and has its header, and tensors are fetched into it (``hub_files``), so that a worker fetches those of its
layers alone. What the hub's own cache has whole is read from there. Only the first look at a commit and tensors that
aren't here yet need the hub.

Owns names, commits and which files describe a model. Doesn't know tensors' names or layers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from helix_df.errors import ModelError
from helix_df.extras import explained_imports
from helix_df.paths import cache_folder
from helix_df.profiles.checkpoint import INDEX, SINGLE, read_weight_map
from helix_df.profiles.hub_files import begin_file, locked

DESCRIBING = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        INDEX,
    }
)
"""Files that are fetched whole."""

_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LISTED = "helix-df-files.json"
"""In a mirror, what the hub has of this commit: there once everything that describes the model is."""


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the hub: ``organisation/name``, and a branch, tag or commit; ``None`` for its main branch."""

    repo: str
    revision: str | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether it is one commit."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def hub_model(location: str) -> HubModel | None:
    """The model that ``organisation/name`` or ``organisation/name@revision`` names; ``None`` for anything else."""
    match = _NAME.fullmatch(location)
    return None if match is None else HubModel(match["repo"], match["revision"])


def endpoint() -> str:
    """Where the hub is: ``HF_ENDPOINT``, or huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def pinned(model: HubModel) -> HubModel:
    """The commit that ``model`` is now; where the hub can't be reached, the one that its cache here has for it.

    Raises:
        ModelError: when there is no such model or revision, it isn't open to this user, or nobody can be asked.
    """
    if model.is_pinned:
        return model
    with explained_imports():
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

    try:
        with _explained(model):
            commit = HfApi(endpoint=endpoint()).model_info(model.repo, revision=model.revision).sha
    except ModelError as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise  # the hub has said so
        with _explained(model):
            commit = Path(snapshot_download(model.repo, revision=model.revision, local_files_only=True)).name
    return HubModel(model.repo, commit)


def mirror(model: HubModel) -> Path:
    """The folder of a pinned model, with everything that describes it.

    Raises:
        ModelError: as ``pinned``, and when the model has no safetensors.
    """
    whole = _whole_in_cache(model)
    if whole is not None:
        return whole
    folder = cache_folder("hub") / model.repo.replace("/", "--") / str(model.revision)
    if not (folder / _LISTED).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "mirror"):
            if not (folder / _LISTED).is_file():
                _describe(model, folder)
    return folder


def is_mirror(folder: Path) -> bool:
    """Whether tensors have to be fetched into a folder before they are read."""
    return (folder / _LISTED).is_file()


def _describe(model: HubModel, folder: Path) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    with _explained(model):
        found = HfApi(endpoint=endpoint()).model_info(model.repo, revision=model.revision)
        names = sorted(file.rfilename for file in found.siblings or [])
        for name in names:
            if name in DESCRIBING:
                hf_hub_download(model.repo, name, revision=model.revision, local_dir=folder, endpoint=endpoint())
        files = sorted(set(read_weight_map(folder).values())) if (folder / INDEX).is_file() else [SINGLE]
        missing = [name for name in files if name not in names]
        if missing:
            raise ModelError(
                "the model has no weights in safetensors",
                where=f"hf:{model}",
                found=", ".join(names[:8]) or "no file at all",
                expected=", ".join(missing[:3]),
            )
        for name in files:
            begin_file(folder / name, url_of(model, name))
    mark_mirror(folder, names)


def mark_mirror(folder: Path, names: Sequence[str]) -> None:
    """Say that ``folder`` has what describes a model whole, and the beginnings of its files of weights."""
    (folder / _LISTED).write_text(json.dumps(names))


def url_of(model: HubModel, name: str) -> str:
    """Where a file of a pinned model is."""
    from huggingface_hub import hf_hub_url

    url: str = hf_hub_url(model.repo, name, revision=model.revision, endpoint=endpoint())
    return url


def _whole_in_cache(model: HubModel) -> Path | None:
    """The folder of a commit in the hub's own cache, if all of its weights are there."""
    with explained_imports():
        from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> Path | None:
        found = try_to_load_from_cache(model.repo, name, revision=model.revision)
        return Path(found) if isinstance(found, str) else None

    config, index = cached("config.json"), cached(INDEX)
    if config is None:
        return None
    try:
        files = {SINGLE} if index is None else set(read_weight_map(index.parent).values())
    except ModelError:
        return None
    return config.parent if all(cached(name) is not None for name in files) else None


@contextmanager
def _explained(model: HubModel) -> Iterator[None]:
    """The hub's errors in this project's words."""
    from huggingface_hub import errors

    where = f"hf:{model}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            "the hub lets only those have this model who were granted it",
            where=where,
            hint="ask for access on its page, then `hf auth login` or HF_TOKEN",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            "the hub has no such model, or doesn't show it to this user",
            where=where,
            expected="organisation/name, or the path of a directory",
            hint="`hf auth login` or HF_TOKEN for one that is private",
        ) from error
    except (errors.RevisionNotFoundError, errors.RevisionResolutionError) as error:
        raise ModelError(
            "the hub doesn't have this revision of the model (any more)",
            where=where,
            hint="plan again with a revision that it has",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            "the hub can't be reached, and the model isn't on this machine",
            where=where,
            found=endpoint(),
            hint=f"`hf download {model.repo}` where there is a network, or name a directory",
        ) from error
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError("the model can't be fetched from the hub", where=where, found=_brief(error)) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "requests"):
            raise
        raise ModelError("the hub can't be reached", where=where, found=f"{endpoint()}: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

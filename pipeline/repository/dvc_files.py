"""DVC's files: dvc.yaml, dvc.lock and its local configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from pipeline.params import parse_yaml, validate

DVC_FILE = Path("dvc.yaml")
LOCK = "dvc.lock"


class StageSettings(BaseModel):
    """How a stage is run, not what it computes: its `meta` in dvc.yaml, which DVC leaves alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    timeout: float | None = Field(default=None, gt=0)  # seconds
    # after exit code 75, "try again later"; after a signal, at most one
    retries: int = Field(default=3, ge=0, le=50)
    retry_delay: float = Field(default=10, ge=0)  # seconds before the first, doubled for each next


def read_declaration(root: Path, stage: str) -> dict[str, Any]:
    """Return the stage as dvc.yaml declares it."""
    declared: dict[str, Any] = (
        read_yaml(root / DVC_FILE).get("stages", {}).get(stage.partition("@")[0], {})
    )
    each: dict[str, Any] = declared.get("do", declared)  # of a `foreach`
    return each


def read_settings(root: Path, stage: str) -> StageSettings:
    """Return the stage's `meta` in dvc.yaml; raise ParamsError with every fault found."""
    declared = read_declaration(root, stage).get("meta", {})
    return validate(StageSettings, declared, DVC_FILE, f"stages.{stage}.meta")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'train': {'seed': 1}} → {'train.seed': 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return flat


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what the file holds, nothing if there is no such file; raise ParamsError."""
    return parse_yaml(path.read_bytes(), path.name) or {} if path.is_file() else {}


def read_if_present(path: Path) -> bytes:
    """Return the file's content; empty if there is no such file."""
    return path.read_bytes() if path.is_file() else b""


class LockedOutput(NamedTuple):
    """An output as dvc.lock has it."""

    stage: str
    path: str
    md5: str


def locked_outputs(lock: str | bytes) -> list[LockedOutput]:
    """Return every output that the content of a dvc.lock names."""
    stages = (parse_yaml(lock, LOCK) or {}).get("stages", {})
    return [
        LockedOutput(stage, out["path"], out.get("md5", ""))
        for stage, entry in stages.items()
        for out in entry.get("outs", [])
    ]


def configure_dvc(
    tree: Path,
    scratch: Path,
    *,
    inherit: Path | None = None,
    cache: Path | None = None,
    scm: bool = True,
) -> None:
    """Write .dvc/config.local of a temporary workspace.

    Args:
        tree: the workspace
        scratch: where DVC keeps its notes, and its cache if nothing else is said
        inherit: a checkout whose cache and remotes are used
        cache: a folder whose objects are linked, never written
        scm: whether the workspace is a Git checkout
    """
    core: dict[str, Any] = {"analytics": False, "site_cache_dir": str(scratch / "site")}
    if inherit:
        from dvc.config import Config, merge  # takes longer than most of what needs no remotes

        (tree / ".dvc" / "config.local").touch(mode=0o600)  # it may hold passwords
        with Config(str(tree / ".dvc")).edit("local") as local:
            merge(local, Config(str(inherit / ".dvc")).read())  # with absolute paths
            # Staging, in an index that goes with the worktree, spares DVC's advice to stage.
            local["core"] |= core | {"autostage": True}
            local["cache"].setdefault("dir", str(inherit / ".dvc" / "cache"))
            # DVC never writes into a link, it replaces it.
            local["cache"]["type"] = "reflink,hardlink,copy"
        return
    core |= {"autostage": False, "no_scm": not scm}
    links = {"type": "symlink"} if cache else {}
    sections = {"core": core, "cache": {"dir": str(cache or scratch / "cache"), **links}}
    lines = [
        line
        for section, values in sections.items()
        for line in (f"[{section}]", *(f"{name} = '{value}'" for name, value in values.items()))
    ]
    (tree / ".dvc").mkdir(exist_ok=True)
    (tree / ".dvc" / "config.local").write_text("\n".join([*lines, ""]), encoding="utf-8")


def has_remote(root: Path) -> bool:
    """Whether DVC has a default remote, to push to and to fetch from."""
    from dvc.config import Config

    return "remote" in Config(str(root / ".dvc")).read()["core"]

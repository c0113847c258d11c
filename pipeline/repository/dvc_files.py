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


def read_settings(meta: Mapping[str, Any], file: str, name: str) -> StageSettings:
    """Check the `meta` of a stage of `file`; raise ParamsError with every fault found."""
    return validate(StageSettings, meta, Path(file), f"stages.{name}.meta")


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
    tree: Path, scratch: Path, *, inherit: Path | None = None, is_worktree: bool = True
) -> None:
    """Write .dvc/config.local of a temporary workspace.

    Args:
        tree: the workspace
        scratch: where DVC keeps its notes, and its cache unless it inherits one
        inherit: a checkout whose cache and remotes are used
        is_worktree: whether it is a worktree of Git's; if not, its data are for the checkout, so
            that they are linked to the cache as there
    """
    from configobj import ConfigObj
    from dvc.config import Config, _pack_named  # takes longer than most of what needs no remotes

    values: dict[str, Any] = {"core": {}, "cache": {}, "remote": {}, "machine": {}, "db": {}}
    if inherit:
        values |= Config(str(inherit / ".dvc")).read()  # with absolute paths
        values["cache"].setdefault("dir", str(inherit / ".dvc" / "cache"))
        if is_worktree:  # DVC never writes into a link, it replaces it
            values["cache"]["type"] = "reflink,hardlink,copy"
    else:
        values["cache"]["dir"] = str(scratch / "cache")
    # Staging, in an index that goes with the worktree, spares DVC's advice to stage.
    values["core"] |= {
        "analytics": False,
        "site_cache_dir": str(scratch / "site"),
        "autostage": True,
    }
    if not is_worktree:
        values["core"]["no_scm"] = True
    local_file = tree / ".dvc" / "config.local"
    local_file.parent.mkdir(exist_ok=True)
    local_file.unlink(missing_ok=True)
    local_file.touch(mode=0o600)  # it may hold passwords
    # DVC's own way to write it fails for a path with an é.
    with local_file.open("wb") as file:
        ConfigObj(_pack_named(values), encoding="utf-8").write(file)


def has_remote(root: Path) -> bool:
    """Whether DVC has a default remote, to push to and to fetch from."""
    from dvc.config import Config

    return "remote" in Config(str(root / ".dvc")).read()["core"]

"""DVC's files: dvc.yaml, dvc.lock and its local configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.params import parse_yaml, validate

DVC_FILE = Path("dvc.yaml")
LOCK = "dvc.lock"


class StageSettings(BaseModel):
    """How a stage is run, not what it computes: its `meta` in dvc.yaml, which DVC leaves alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    timeout: float | None = Field(default=None, gt=0)  # seconds
    retries: int = Field(default=3, ge=0, le=50)  # after exit code 75, "try again later"
    retry_delay: float = Field(default=10, ge=0)  # seconds before the first, doubled for each next


def read_declaration(root: Path, stage: str) -> dict[str, Any]:
    """The stage as dvc.yaml has it."""
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
    """The file's content, of which there is none where the graph makes no such file."""
    return path.read_bytes() if path.is_file() else b""


def locked_outputs(lock: str | bytes) -> dict[str, str]:
    """Every output that a dvc.lock names, and its hash."""
    stages = (parse_yaml(lock, LOCK) or {}).get("stages", {})
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def configure_dvc(root: Path, tree: Path, scratch: Path) -> None:
    """Let DVC work in `tree` as in `root`, with its cache and remotes, and keep its notes in
    `scratch`.
    """
    from dvc.config import Config, merge  # only now: verify does without

    (tree / ".dvc" / "config.local").touch(mode=0o600)  # it may hold passwords
    with Config(str(tree / ".dvc")).edit("local") as local:
        merge(local, Config(str(root / ".dvc")).read())  # which has made relative paths absolute
        # staging, in an index that goes with the worktree, spares the log DVC's advice to stage
        local["core"] |= {
            "autostage": True,
            "analytics": False,
            "site_cache_dir": str(scratch / "site"),
        }
        local["cache"].setdefault("dir", str(root / ".dvc" / "cache"))
        local["cache"]["type"] = (
            "reflink,hardlink,copy"  # DVC never writes into a link, it replaces it
        )


def has_remote(root: Path) -> bool:
    """Whether DVC has a place to push to."""
    from dvc.config import Config

    return "remote" in Config(str(root / ".dvc")).read()["core"]


def isolate(tree: Path, temporary: Path) -> None:
    (tree / ".dvc").mkdir(exist_ok=True)
    (tree / ".dvc" / "config.local").write_text(
        f"[core]\nautostage = false\nanalytics = false\nsite_cache_dir = '{temporary / 'site'}'\n"
        f"[cache]\ndir = '{temporary / 'cache'}'\n",
        encoding="utf-8",
    )

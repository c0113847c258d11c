"""Receipts: the machine and the versions that made a model, under the model's hash."""

import json
from pathlib import Path
from typing import Any

from pipeline.files import atomic_write
from pipeline.paths import RECEIPTS
from pipeline.repository.dvc_files import LOCK, locked_outputs, read_if_present

Environment = dict[str, Any]


def read_receipts(folder: Path) -> dict[str, Environment]:
    receipts = {}
    for path in (folder / RECEIPTS).glob("*.json"):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue  # as good as none
        if isinstance(content, dict):
            receipts[path.stem] = content
    return receipts


def copy_receipts(root: Path, tree: Path) -> None:
    """Keep what tells of a model's making for when the model is only restored, and fetch it
    then.
    """
    kept = root / ".dvc" / "tmp" / RECEIPTS
    for receipt in (tree / RECEIPTS).glob("*.json"):
        with atomic_write(kept / receipt.name) as temporary:
            temporary.write_bytes(receipt.read_bytes())
    for out in locked_outputs(read_if_present(tree / LOCK)):
        name = f"{out.md5}.json"
        found = next(
            (folder / name for folder in (root / RECEIPTS, kept) if (folder / name).is_file()),
            None,
        )
        if found and not (tree / RECEIPTS / name).exists():
            (tree / RECEIPTS).mkdir(exist_ok=True)
            (tree / RECEIPTS / name).write_bytes(found.read_bytes())

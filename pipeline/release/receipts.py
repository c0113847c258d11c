"""Receipts: on what machine and with which versions a model was trained.

The train stage writes them. A receipt is a JSON file whose name is the md5 of its model.
"""

import json
from pathlib import Path
from typing import Any

from pipeline.files import atomic_write
from pipeline.paths import RECEIPTS
from pipeline.repository.dvc_files import LOCK, locked_outputs, read_if_present

Environment = dict[str, Any]


def read_receipts(folder: Path) -> dict[str, Environment]:
    """Return the receipts of a checkout by the md5 of their models; unreadable ones are ignored."""
    receipts = {}
    for path in (folder / RECEIPTS).glob("*.json"):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            receipts[path.stem] = content
    return receipts


def copy_receipts(root: Path, tree: Path) -> None:
    """Keep the receipts of a worktree in `root`, and give it those of models that it restored.

    A model that comes from the run cache brings no receipt: it was written when the model was
    trained, maybe in another worktree.
    """
    kept = root / ".dvc" / "tmp" / RECEIPTS
    for receipt in (tree / RECEIPTS).glob("*.json"):
        with atomic_write(kept / receipt.name) as temporary:
            temporary.write_bytes(receipt.read_bytes())
    for out in locked_outputs(read_if_present(tree / LOCK)):
        wanted = tree / RECEIPTS / f"{out.md5}.json"
        for folder in (root / RECEIPTS, kept):
            if not wanted.exists() and (folder / wanted.name).is_file():
                wanted.parent.mkdir(exist_ok=True)
                wanted.write_bytes((folder / wanted.name).read_bytes())

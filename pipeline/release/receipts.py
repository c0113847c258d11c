"""Receipts: on what machine and with which versions a model was trained.

A receipt is an output of train that lives in Git. It explains why other outputs differ, and is no
difference itself. Earlier commits have it in the folder receipts, under the md5 of its model.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.paths import RECEIPT
from pipeline.repository.dvc_files import LockedOutput

EARLIER = Path("receipts")

Environment = dict[str, Any]


def read_receipt(
    read: Callable[[Path], str | bytes],
    hashes: Iterable[str | None],
) -> Environment | None:
    """Return the receipt of a commit or a folder; None if it has none that can be read.

    Args:
        read: returns what is in a file, or nothing
        hashes: of the outputs, of which one is the model, in case that the commit is an earlier one
    """
    for path in (RECEIPT, *(EARLIER / f"{md5}.json" for md5 in hashes)):
        try:
            content = json.loads(read(path))
        except ValueError:
            continue
        for environment in content if isinstance(content, list) else [content]:
            if isinstance(environment, dict):
                return environment
    return None


def without_receipt(outs: Iterable[LockedOutput]) -> list[LockedOutput]:
    """Return the outputs that are the same wherever equal inputs give equal bytes."""
    return [out for out in outs if out.path != str(RECEIPT)]

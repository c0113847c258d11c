"""Loaded by every Python process of a fault test, before its own code."""

import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import tqdm

STAGE = next((name for name in sys.orig_argv if name.startswith("pipeline.stages.")), "")
SMALL = 200  # bytes

what, *how = os.environ.get("FAULT_KILL", "never").split()
counts = {"step": 0, "named": 0}


def end(delay: float = 0) -> None:
    time.sleep(delay)
    os.kill(os.getpid(), int(os.environ["FAULT_SIGNAL"]))


def count_step(bar: Any, images: int = 1) -> Any:
    with Path(os.environ["FAULT_LOG"]).open("a") as log:
        log.write(f"{images}\n")
    counts["step"] += 1
    if what == "step" and counts["step"] == int(how[0]):
        threading.Thread(target=end, args=[float(how[1])], daemon=True).start()
    return update(bar, images)


def intercept(method: str, kind: str) -> None:
    original = getattr(Path, method)

    def intercepted(path: Path, *arguments: Any, **settings: Any) -> Any:
        target = Path(arguments[0] if arguments else path)
        if kind == what and str(target).startswith(how[0]) and ".partial" not in target.name:
            counts["named"] += 1
            if counts["named"] == int(how[1]):
                end()
        return original(path, *arguments, **settings)

    setattr(Path, method, intercepted)


if STAGE:
    intercept("replace", "rename")
    intercept("rename", "rename")
    intercept("unlink", "unlink")
if STAGE == "pipeline.stages.train":
    update = tqdm.tqdm.update
    # a type checker minds the plain assignment
    setattr(tqdm.tqdm, "update", count_step)  # noqa: B010
if STAGE and os.environ.get("FAULT_LIMIT") == STAGE:
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))
if "FAULT_ROOT" in os.environ:
    import steps  # noqa: F401

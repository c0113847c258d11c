"""Notes the steps of `mnist add` and of its DVC process, and kills at one.

A step is whatever changes a file below FAULT_ROOT, or starts a process; it is killed just before.
FAULT_AT names it: `add 12` is the command's twelfth, `dvc rename NAME` the one of its DVC process
by which something gets this path below FAULT_ROOT.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

ARGUMENTS = sys.orig_argv[1:3]
IS_DVC = ARGUMENTS[-1].endswith("dvc_program.py")
ROLE = "dvc" if IS_DVC else "add" if ARGUMENTS == ["-m", "pipeline"] else ""
CHANGES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink", "os.chmod")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

root, at = os.environ["FAULT_ROOT"], os.environ["FAULT_AT"]
count = 0


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    global count
    is_change = event in CHANGES or (event == "open" and arguments[2] & WRITING)
    paths = [str(Path.cwd() / path) for path in arguments[:2] if isinstance(path, str | Path)]
    if event != "subprocess.Popen" and not (is_change and paths and root in paths[0]):
        return
    count += 1
    rename = f"{ROLE} rename {paths[-1].removeprefix(root)}" if event == "os.rename" else ""
    names = [f"{ROLE} {count}", rename]
    log = os.open(os.environ["FAULT_LOG"], os.O_WRONLY | os.O_APPEND)
    os.write(log, f"{names[0]} {event} {paths}\n".encode())
    os.close(log)
    if at in names:
        if os.environ["FAULT_KILLS"] == "all":
            os.kill(int(Path(os.environ["FAULT_VICTIM"]).read_text()), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


if ROLE == "add":
    victim = os.open(os.environ["FAULT_VICTIM"], os.O_WRONLY | os.O_CREAT)
    os.write(victim, str(os.getpid()).encode())
    os.close(victim)
if ROLE:
    sys.addaudithook(watch)

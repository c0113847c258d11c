"""Do part of a Git command in real Git, then SIGKILL the run that asked for it."""

import os
import subprocess
import sys
import time
from pathlib import Path

GIT, WHAT, VICTIM = (
    os.environ["FAULT_GIT"],
    os.environ["FAULT_DO"],
    Path(os.environ["FAULT_VICTIM"]),
)
arguments = sys.argv[1:]
environment = {name: value for name, value in os.environ.items() if name != "FAULT_AT"}


def leave_locks() -> None:
    """Let Git lock every ref of the transaction, and kill it there."""
    lines = sys.stdin.read().replace("\ncommit\n", "\nprepare\n")
    process = subprocess.Popen(
        [GIT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(lines)
    process.stdin.flush()
    while process.stdout.readline() != "prepare: ok\n":
        time.sleep(0.01)
    process.kill()
    process.wait()


def move_the_branch_alone() -> None:
    """As a kill does between the renames of a transaction: the branch comes first."""
    if "push" in arguments:
        tags = [argument for argument in arguments if ":refs/tags/" in argument]
        subprocess.run(
            [GIT, *(argument for argument in arguments if argument not in tags)], check=True
        )
    else:
        lines = [line for line in sys.stdin.read().splitlines() if "refs/tags/" not in line]
        subprocess.run([GIT, *arguments], check=True, input="\n".join([*lines, ""]), text=True)


if WHAT == "wait":  # and let the run go on
    subprocess.run(os.environ["FAULT_MEANWHILE"], shell=True, check=True, env=environment)
    os.execv(GIT, [GIT, *arguments])
if WHAT == "after":
    subprocess.run([GIT, *arguments], check=True)
if WHAT == "locks":
    leave_locks()
if WHAT == "half":
    move_the_branch_alone()
os.kill(int(VICTIM.read_text()), 9)

"""A DVC process that answers one request after the other: dvc_program.py

A request is a line of JSON on standard input:
    arguments    of `dvc`
    environment  variables set while it is answered
    separate     whether errors are kept apart from the output
    token        ends the answer
The answer is what DVC, and the stage it runs, print; then the token and a line of JSON with `code`
and `errors`. DVC takes longer to start than to answer, so one process answers many requests.

The commands of dvc_describe.py, dvc_rehearse.py, dvc_place.py and dvc_update.py are added to DVC's.

dvc_worker.py starts it by its path; it imports nothing of the package.
"""

import json
import os
import runpy
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dvc.cli import main, parser

COMMANDS = ("dvc_describe.py", "dvc_rehearse.py", "dvc_place.py", "dvc_update.py")
INTERRUPTED = 252  # DVC's exit code after Ctrl-C


def answer(request: dict[str, Any]) -> int:
    """Run one `dvc` command and write its answer; return its exit code."""
    root, variables = Path.cwd(), dict(os.environ)
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as errors:
        if request["separate"]:
            os.dup2(errors.fileno(), 2)
        os.environ |= request["environment"]
        try:
            code: int = main(["--wait-for-lock", *request["arguments"]])
        finally:
            os.chdir(root)  # --cd changes it
            os.environ.clear()
            os.environ |= variables
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)
        errors.seek(0)
        end = {"code": code, "errors": errors.read().decode(errors="replace")}
    print(request["token"] + json.dumps(end), flush=True)
    return code


if __name__ == "__main__":
    for file in COMMANDS:
        added = runpy.run_path(str(Path(__file__).with_name(file)))
        parser.COMMANDS.append(SimpleNamespace(**added))
    # A stage inherits standard input: it must not find the requests there.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        for line in requests:
            if answer(json.loads(line)) == INTERRUPTED:
                break
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

"""Check params.yaml with the models of the stages that are named, and run nothing.

Run: python -P params_program.py STAGE…, in the folder to check, with that folder on PYTHONPATH. The
models are those of the folder's code, which may be an older commit's. So this program uses only
what every commit has: ParamsError, Params and load_params. It prints all faults and exits with 2.
"""

import importlib
import inspect
import sys

from pipeline.errors import ParamsError
from pipeline.params import Params, load_params


def find_faults(stage: str) -> list[str]:
    """Return what is wrong in the section of a stage, a message for each of its models."""
    module = importlib.import_module(f"pipeline.stages.{stage}")
    faults = []
    for _, model in inspect.getmembers(module, inspect.isclass):
        if issubclass(model, Params) and model.__module__ == module.__name__:
            try:
                load_params(stage, model)
            except ParamsError as error:
                faults.append(str(error))
    return faults


def main() -> None:
    faults = [fault for stage in sys.argv[1:] for fault in find_faults(stage)]
    if faults:
        print(*(f"error: {fault}" for fault in faults), sep="\n", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

"""Check params.yaml against the models of the stages named, all faults at once, and run nothing.

Run in the folder to check, with that folder on PYTHONPATH: the models are those of its own code,
which may be another commit's than this file.
"""

import importlib
import sys

from pipeline.errors import ParamsError, run_main
from pipeline.params import Params, load_params


def main() -> None:
    faults = []
    for stage in sys.argv[1:]:
        module = importlib.import_module(f"pipeline.stages.{stage}")
        for model in vars(module).values():
            if (
                isinstance(model, type)
                and issubclass(model, Params)
                and model.__module__ == module.__name__
            ):
                try:
                    load_params(stage, model)
                except ParamsError as error:
                    faults.append(str(error))
    if faults:
        raise ParamsError("\nerror: ".join(faults))


if __name__ == "__main__":
    run_main(main)

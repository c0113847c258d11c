"""Fetch the four IDX files of a data set from the first source that has them, and verify them.

Reads the section `fetch` of params.yaml; writes data/raw/. Run: python -m pipeline.stages.fetch
"""

from pathlib import Path

from pydantic import Field

from pipeline.errors import run_main
from pipeline.files import atomic_folder
from pipeline.mnist.idx import write_dataset_info
from pipeline.mnist.sources import DATASETS, DatasetName, SourceName, fetch
from pipeline.params import Params, load_params
from pipeline.paths import RAW


class FetchParams(Params):
    dataset: DatasetName
    sources: list[SourceName] = Field(min_length=1)
    directory: str = Field(min_length=1)
    timeout: float = Field(gt=0, le=86_400)  # seconds for each server tried


def main() -> None:
    params = load_params("fetch", FetchParams)
    directory = Path(params.directory)
    with atomic_folder(RAW) as folder:
        source = fetch(params.dataset, params.sources, directory, params.timeout, folder)
        write_dataset_info(folder, DATASETS[params.dataset].info)
    print(f"{params.dataset} from {source}")


if __name__ == "__main__":
    run_main(main)

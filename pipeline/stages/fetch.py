"""Fetch a data set's four IDX files from the first source that has them, verified.

Reads the section `fetch` of params.yaml; writes data/raw/. Run: python -m pipeline.stages.fetch
"""

import shutil
from pathlib import Path

from pydantic import Field

from pipeline.errors import run_main
from pipeline.files import sync
from pipeline.mnist.idx import DATASET_FILE, DatasetInfo
from pipeline.mnist.sources import DATASETS, DatasetName, SourceName, fetch
from pipeline.params import Params, load_params
from pipeline.paths import RAW

PARTIAL = RAW.with_suffix(".partial")


class FetchParams(Params):
    dataset: DatasetName
    sources: list[SourceName] = Field(min_length=1)
    directory: str = Field(min_length=1)
    timeout: float = Field(gt=0, le=86_400)  # seconds for each candidate


def main() -> None:
    params = load_params("fetch", FetchParams)
    shutil.rmtree(PARTIAL, ignore_errors=True)  # what a killed run left
    files = PARTIAL / "files"
    files.mkdir(parents=True)
    try:
        source = fetch(
            params.dataset, params.sources, Path(params.directory), params.timeout, files, PARTIAL
        )
        info = DatasetInfo(dataset=params.dataset, classes=DATASETS[params.dataset].classes)
        (files / DATASET_FILE).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for path in files.iterdir():
            sync(path)
        shutil.rmtree(RAW, ignore_errors=True)
        files.rename(RAW)
        sync(RAW.parent)
    finally:
        shutil.rmtree(PARTIAL, ignore_errors=True)
    print(f"{params.dataset} from {source}")


if __name__ == "__main__":
    run_main(main)

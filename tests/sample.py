"""A repository that holds the sample of real digits, and no stage has run."""

import shutil
from pathlib import Path

from helpers import ROOT, SAMPLE_FILES
from toy import commit_all, execute

from pipeline.mnist.idx import write_dataset_info
from pipeline.mnist.sources import DATASETS
from pipeline.paths import RAW


def make_sample(folder: Path) -> None:
    """Make it on the branch main, with the sample fetched and no own images."""
    folder.mkdir(exist_ok=True)
    execute(folder, "git", "init", "--quiet", "--initial-branch", "main")
    execute(folder, "dvc", "init", "--quiet")
    for name in (".gitignore", ".dvc/config", "data/.gitignore", "data/own/.gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    (folder / RAW).mkdir()
    for name, content in SAMPLE_FILES.items():
        (folder / RAW / name).write_bytes(content)
    write_dataset_info(folder / RAW, DATASETS["sample"].info)
    commit_all(folder)

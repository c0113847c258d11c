"""Repositories on the sample of real digits, in which no stage has run."""

import shutil
from pathlib import Path

from helpers import PARAMS, ROOT, SAMPLE_FILES
from ruamel.yaml import YAML
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


def make_repository(folder: Path) -> None:
    """Make one of this code, with nothing committed."""
    options = ("-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, execute(ROOT, "git", "ls-files", *options).split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("reports/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(PARAMS, file)
    execute(folder, "git", "init", "--quiet")

"""`mnist add` that is killed at every step, raced, and short of space, memory or permissions."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import files_under
from PIL import Image
from sample import make_sample
from toy import execute, processes_under, wait_until

from benchmarks.other_writers import write_pictures
from pipeline.mnist.idx import read_raw
from pipeline.paths import OWN, RAW
from pipeline.repository.processes import subprocess_environment

pytestmark = pytest.mark.slow

SHIM = Path(__file__).with_name("shim")
ADD = (sys.executable, "-m", "pipeline", "add", "../in", "--batch", "new", "--commit")
DRAWS = 14  # of a step, in a run of the tests
OUT_OF_SCOPE = "this machine lets nobody mount"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a repository with a batch of own images, and of pictures for another."""
    root: Path = tmp_path_factory.mktemp("made")
    make_sample(root / "workspace")
    write_pictures(root / "old", range(10, 20))
    write_pictures(root / "in", range(3))
    command = [*ADD[:4], "../old", "--batch", "old", "--commit"]
    assert run(root / "workspace", command).returncode == 0
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    execute(tmp_path, "cp", "--archive", str(made), "root")
    return tmp_path / "root"


def run(
    folder: Path, command: Sequence[str] = ADD, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = subprocess_environment() | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    return subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True
    )


def run_faulty(root: Path, at: str, kills: str = "all") -> subprocess.CompletedProcess[str]:
    (root / "steps").touch()
    return run(
        root / "workspace",
        PYTHONPATH=str(SHIM),
        FAULT_ROOT=str(root / "workspace"),
        FAULT_LOG=str(root / "steps"),
        FAULT_VICTIM=str(root / "victim"),
        FAULT_AT=at,
        FAULT_KILLS=kills,
    )


@pytest.fixture(scope="module")
def steps(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many steps the command and its DVC process take."""
    root = tmp_path_factory.mktemp("steps") / "root"
    execute(root.parent, "cp", "--archive", str(made), str(root))
    assert run_faulty(root, "never").returncode == 0
    lines = (root / "steps").read_text().splitlines()
    return {role: sum(line.startswith(role) for line in lines) for role in ("add", "dvc")}


def assert_old_or_new(folder: Path, old: dict[str, bytes]) -> None:
    """No batch is half here: its record comes first, and its folder has all or is missing."""
    files = files_under(folder / OWN)
    assert {name: files.get(name) for name in old} == old
    new = [name for name in files if name not in old]
    assert len(new) in (0, 1, 4), new
    assert not new or "new.dvc" in new
    changed = execute(folder, "git", "status", "--porcelain").split()
    assert changed in ([], ["??", "data/own/new.dvc"], ["A", "data/own/new.dvc"])


def assert_new(folder: Path, old: dict[str, bytes]) -> None:
    """All is here, as DVC knows it, and nothing else is left."""
    files = files_under(folder / OWN)
    assert {name: files.get(name) for name in old} == old
    assert len(files) == len(old) + 4
    status = execute(folder, "dvc", "status", "--quiet", "data/own/old.dvc", "data/own/new.dvc")
    assert status == ""
    assert list((folder / "data").glob(".*.partial")) == []
    wait_until(lambda: not processes_under(folder))


@pytest.mark.parametrize("draw", range(DRAWS))
@pytest.mark.parametrize("role", ["add", "dvc"])
def test_a_kill_at_any_step_leaves_the_old_set_or_the_new_one(
    root: Path, steps: dict[str, int], role: str, draw: int
) -> None:
    """They are drawn evenly."""
    folder = root / "workspace"
    step = 1 + draw * steps[role] // DRAWS
    old = files_under(folder / OWN)
    killed = run_faulty(root, f"{role} {step}")
    taken = (root / "steps").read_text().splitlines()
    assert killed.returncode == -signal.SIGKILL, f"{role} {step}: {taken[-1:]}"
    if draw % 2:  # or else the next comes at once
        wait_until(lambda: not processes_under(folder))
        assert_old_or_new(folder, old)
    again = run(folder)
    assert again.returncode == 0, f"{role} {step}: {again.stderr}"
    assert_new(folder, old)


PLACES = {
    "before its record is there": "/data/own/new.dvc",
    "before its folder is there": "/data/own/new",
}


@pytest.mark.parametrize("kills", ["all", "dvc"])
@pytest.mark.parametrize("place", PLACES)
def test_a_kill_between_the_moves_into_place(root: Path, place: str, kills: str) -> None:
    folder = root / "workspace"
    old = files_under(folder / OWN)
    killed = run_faulty(root, f"dvc rename {PLACES[place]}", kills)
    if kills == "all":
        assert killed.returncode == -signal.SIGKILL
    else:  # the command lives to say so
        assert killed.returncode == 1
        assert re.fullmatch(r"error: dvc place .+ failed: .+\n", killed.stderr), killed.stderr
    wait_until(lambda: not processes_under(folder))
    new = set(files_under(folder / OWN)) - set(old)
    assert new == ({"new.dvc"} if "folder" in place else set())
    if new:  # DVC has all that the record names
        copy = root / "copy"
        execute(root, "cp", "--archive", str(folder), str(copy))
        execute(copy, "dvc", "checkout", "--quiet", "data/own/new.dvc")
        assert len(files_under(copy / OWN)) == len(old) + 4
    again = run(folder)
    assert again.returncode == 0, again.stderr
    assert ("checked out new from DVC's cache" in again.stderr) == bool(new)
    assert_new(folder, old)


def test_two_at_once_wait_for_each_other(root: Path) -> None:
    """Of one image, the second finds that it is here."""
    folder = root / "workspace"
    write_pictures(root / "more", range(2, 5))
    commands = [[*ADD[:4], name, "--commit"] for name in ("../in", "../more")]
    environment = subprocess_environment() | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    processes = [
        subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(re.findall(r"added (\d)", "".join(outputs))) == ["2", "3"]
    assert "here already, and not added again: 1 of the files" in "".join(outputs)
    assert execute(folder, "git", "status", "--porcelain") == ""
    images = [path.name for path in (folder / OWN).rglob("*.png")]
    assert len(images) == len(set(images)) == 15


@pytest.mark.parametrize("free", [100, 900, 1500])
def test_a_full_disk_is_a_line_and_leaves_the_old_set(root: Path, free: int) -> None:
    """Full while images are stored, or while DVC has them; with more space it is added."""
    write_pictures(root / "in", range(100, 300))  # 4 KiB each, and as much in the cache
    mount = root / "mount"
    mount.mkdir()
    used = int(execute(root, "du", "--summarize", "--block-size=1K", "workspace").split()[0])
    add = f"'{ADD[0]}' -m pipeline add ../../in --batch new"
    script = f"""
        mount -t tmpfs -o size={used + free + 400}k tmpfs mount && cp -a workspace mount/ || exit 9
        cd mount/workspace
        head -c $(($(df --output=avail -B1K . | tail -1) - {free}))K /dev/zero > ../ballast
        ls data/own; {add}; echo "code $?"; ls data/own; ls -A data
        rm ../ballast; mount -o remount,size=100m ../; {add}; echo "code $?"
        dvc status data/own/new.dvc
    """
    result = run(root, [*unshare(), "sh", "-c", script])
    if result.returncode == 9:
        pytest.skip(OUT_OF_SCOPE)
    before, _, rest = result.stdout.partition("code 1\n")
    assert rest.startswith(before), result.stdout + result.stderr
    assert ".partial" not in rest
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert re.search("No space left on device|database or disk is full", line)
    assert rest.endswith("code 0\nData and pipelines are up to date.\n"), result.stdout


def unshare() -> list[str]:
    """The command that runs another where it may mount."""
    return ["unshare", "--mount", *["--map-root-user"] * (os.geteuid() != 0)]


def test_a_read_only_folder_is_a_line(root: Path) -> None:
    folder = root / "workspace"
    before = files_under(folder / OWN)
    data = folder / "data"
    mount = f"mount --bind '{data}' '{data}' && mount -o remount,ro,bind '{data}' || exit 9"
    result = run(folder, [*unshare(), "sh", "-c", f"{mount}; exec '{ADD[0]}' {' '.join(ADD[1:])}"])
    if result.returncode == 9:
        pytest.skip(OUT_OF_SCOPE)
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*Read-only file system.*\n", result.stderr), result.stderr
    assert files_under(folder / OWN) == before


def test_folders_and_files_without_permission_are_faults(root: Path) -> None:
    """Root may read everything, unless it gives that power up."""
    folder = root / "workspace"
    (root / "in" / "2").chmod(0)
    (image,) = (root / "in" / "1").iterdir()
    image.chmod(0)
    before = files_under(folder / OWN)
    is_root = os.geteuid() == 0
    if is_root and not shutil.which("setpriv"):
        pytest.skip("there is no setpriv here, by which root gives its powers up")
    weak = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] * is_root
    result = run(folder, [*weak, *ADD])
    (root / "in" / "2").chmod(0o755)
    assert result.returncode == 3
    assert result.stderr.splitlines() == [
        f"error: ../in/1/{image.name} cannot be read: Permission denied",
        "error: ../in/2 cannot be read: Permission denied",
    ]
    assert files_under(folder / OWN) == before


def test_a_folder_of_ten_thousand_files_takes_no_more_memory(root: Path) -> None:
    """One image at a time is held. DVC, in a process of its own, holds names and hashes."""
    folder = root / "workspace"
    write_many(folder, root / "few", 100)
    write_many(folder, root / "many", 10_000)
    few, many = (peak_memory(folder, name) for name in ("../few", "../many"))
    assert len(list((folder / OWN).rglob("*.png"))) == 10 + 10_000
    assert many - few < 50 * 2**20


def write_many(folder: Path, target: Path, count: int) -> None:
    """Write images, no two of them equal."""
    digits = read_raw(folder / RAW, "train")
    for label in set(digits.labels.tolist()):
        (target / str(label)).mkdir(parents=True)
    for number in range(count):
        move, row = divmod(number, len(digits.labels))
        moved = np.roll(digits.images[row, 0], move + 1, axis=1)
        Image.fromarray(moved).save(target / str(digits.labels[row]) / f"{number}.png")


def peak_memory(folder: Path, name: str) -> int:
    """Add a folder; return the most bytes that the command itself held."""
    program = (
        "import resource, sys; from pipeline.cli import main; sys.argv = ['mnist', *sys.argv[1:]];"
        " main(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    result = run(folder, [sys.executable, "-c", program, "add", name])
    assert result.returncode == 0, result.stderr
    return int(result.stdout.splitlines()[-1])

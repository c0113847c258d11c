"""The verify command on a repository of this code on the sample, in real processes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import files_under
from ruamel.yaml import YAML
from toy import GIT, append, commit_all, execute

from pipeline.paths import RECEIPT
from pipeline.release.verify import dvc_md5
from pipeline.repository.processes import subprocess_environment

pytestmark = pytest.mark.slow

MODEL = "models/model.safetensors"


def verify(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "verify", *arguments],
        cwd=folder,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
    )


def commit(folder: Path) -> None:
    execute(folder, *GIT, "commit", "--quiet", "--all", "--message", "modified")


def state(folder: Path) -> dict[str, bytes]:
    """Return every file, without what DVC and Python note for themselves."""
    return {
        name: content
        for name, content in files_under(folder).items()
        if not name.startswith((".dvc/tmp", ".dvc/config.local")) and "__pycache__" not in name
    }


def test_a_clean_clone_is_the_same_and_stays_as_it_is(repository: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone with a space"
    execute(tmp_path, "git", "clone", "--quiet", str(repository), str(clone))
    (clone / "params.yaml").write_text("the user is at work here")
    before = state(clone)
    result = verify(clone)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("same: ")
    assert "train       same" in result.stdout
    assert state(clone) == before
    assert execute(clone, "git", "worktree", "list").count("\n") == 1


def test_the_json_output(repository: Path) -> None:
    result = verify(repository, "--json")
    content = json.loads(result.stdout)
    assert (result.returncode, content["verdict"], content["first_different"]) == (0, "same", None)
    assert set(content["stages"]) == {"fetch", "preprocess", "train", "evaluate", "report"}
    assert content["damaged"] == []
    assert content["environment"]["maker"] == content["environment"]["here"]
    assert content["environment"]["here"]["device"] == "cpu"


def modify_a_metric(folder: Path) -> None:
    path = folder / "reports/metrics.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"accuracy": 0.', '"accuracy": 0.9'),
        encoding="utf-8",
    )


def modify_with_its_lock(name: str, stage: str, folder: Path) -> None:
    """Change a byte of an output, and its hash in dvc.lock."""
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    execute(folder, "dvc", "commit", "--force", stage)


def modify_the_cache(folder: Path) -> None:
    """Change a byte of the training data's object, which every checkout links or copies."""
    lock = (folder / "dvc.lock").read_text(encoding="utf-8")
    md5 = lock.split("path: data/tensors/train.safetensors\n      hash: md5\n      md5: ")[1][:32]
    path = folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\7")


@pytest.mark.parametrize(
    ("how", "name", "stage", "said"),
    [
        (
            "file",
            "reports/metrics.json",
            "evaluate",
            "evaluate: reports/metrics.json in the commit has md5 ",
        ),
        ("lock", "reports/metrics.json", "evaluate", "reports/metrics.json: dvc.lock says "),
        ("lock", MODEL, "train", f"{MODEL}: dvc.lock says "),
        (
            "lock",
            "data/tensors/test.safetensors",
            "preprocess",
            "data/tensors/test.safetensors: dvc.lock says ",
        ),
        ("lock", "data/raw/t10k-labels-idx1-ubyte", "fetch", "data/raw: dvc.lock says "),
        ("cache", "", "", "data/tensors/train.safetensors in the cache is not what its name "),
        ("workspace", MODEL, "train", f"train: {MODEL} in the workspace has md5 "),
        (
            "workspace",
            "data/raw/t10k-labels-idx1-ubyte",
            "fetch",
            "fetch: data/raw in the workspace has md5 ",
        ),
    ],
)
def test_what_is_modified_is_found_and_named(
    repository: Path, how: str, name: str, stage: str, said: str
) -> None:
    if how == "cache":
        modify_the_cache(repository)
    elif how == "lock":
        modify_with_its_lock(name, stage, repository)
    elif how == "workspace":
        (repository / name).write_bytes((repository / name).read_bytes() + b"\0")
    else:
        modify_a_metric(repository)
    if how in ("file", "lock"):
        commit(repository)
    result = verify(repository)
    assert result.returncode == 1, result.stdout + result.stderr
    assert said in result.stdout
    assert result.stdout.splitlines()[-1].startswith("different: ")


def claim_another_machine(folder: Path) -> None:
    """Change the receipt, and its hash in dvc.lock."""
    path = folder / RECEIPT
    [environment] = json.loads(path.read_text(encoding="utf-8"))
    environment |= {"processor": "Another", "threads": 64}
    path.write_text(json.dumps([environment]), encoding="utf-8")
    execute(folder, "dvc", "commit", "--force", "train")


def test_the_same_outputs_of_another_machine_are_the_same(repository: Path) -> None:
    """A receipt explains a difference, and is none."""
    claim_another_machine(repository)
    commit(repository)
    result = verify(repository)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the model's maker: processor Another, here " in result.stdout
    assert result.stdout.splitlines()[-1].startswith("same: ")


def test_a_receipt_changed_without_its_lock_is_modified(repository: Path) -> None:
    (repository / RECEIPT).write_text("[{}]", encoding="utf-8")
    commit(repository)
    result = verify(repository)
    assert result.returncode == 1
    assert f"modified: train: {RECEIPT} in the commit has md5 " in result.stdout


@pytest.mark.parametrize("how", ["--temp", "--queue"])
def test_an_experiment_carries_its_receipt(repository: Path, how: str) -> None:
    """It runs in a folder of its own, from a commit whose model another machine made."""
    claim_another_machine(repository)
    commit(repository)
    command = ("dvc", "exp", "run", how, "--name", "faster", "-S", "train.learning_rate=0.002")
    execute(repository, *command)
    if how == "--queue":
        execute(repository, "dvc", "exp", "run", "--run-all")
    execute(repository, "dvc", "exp", "branch", "faster", "faster")
    [receipt] = json.loads(execute(repository, "git", "show", f"faster:{RECEIPT}"))
    assert receipt["processor"] != "Another"
    result = verify(repository, "--rev", "faster", "--json")
    environment = json.loads(result.stdout)["environment"]
    assert (result.returncode, environment["maker"]) == (0, receipt)


# How a training left its receipt before it was an output
EARLIER = """
def write_receipt(environment: Environment) -> None:
    import hashlib
    md5 = hashlib.md5(Path("models/model.safetensors").read_bytes()).hexdigest()
    Path("receipts").mkdir(exist_ok=True)
    Path(f"receipts/{md5}.json").write_text(json.dumps(environment))
"""


@pytest.mark.parametrize(("processor", "code"), [("here", 1), ("Another", 2)])
def test_the_receipts_of_earlier_commits_are_read(
    repository: Path, processor: str, code: int
) -> None:
    """The model is another than the code gives, and the receipt is of this machine or another."""
    append(repository / "pipeline/mnist/environment.py", EARLIER)
    graph = YAML()
    content = graph.load(repository / "dvc.yaml")
    del content["stages"]["train"]["metrics"]
    graph.dump(content, repository / "dvc.yaml")
    (repository / RECEIPT).unlink()
    execute(repository, "dvc", "repro")
    modify_with_its_lock(MODEL, "train", repository)
    (receipt,) = (repository / "receipts").iterdir()
    if processor == "Another":
        environment = json.loads(receipt.read_text(encoding="utf-8")) | {"processor": processor}
        md5 = dvc_md5(repository / MODEL)
        receipt.with_name(f"{md5}.json").write_text(json.dumps(environment), encoding="utf-8")
    commit_all(repository)
    result = verify(repository)
    assert result.returncode == code, result.stdout + result.stderr
    assert "the model's maker: no receipt" not in result.stdout


def test_another_machine_is_named_as_the_reason(repository: Path) -> None:
    """The model differs, and its receipt is of a machine that may round differently."""
    claim_another_machine(repository)
    modify_with_its_lock(MODEL, "train", repository)
    commit(repository)
    result = verify(repository)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "the model's maker: processor Another, here " in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "cannot tell: train differs, but so does this machine: processor, threads"
    )


def test_a_commit_that_cannot_run_is_exit_code_2_and_one_line(repository: Path) -> None:
    (repository / "params.yaml").write_text("train: {}", encoding="utf-8")
    commit(repository)
    result = verify(repository)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(
        "error: cannot tell: the stage fetch did not run to its end: error: params.yaml: the"
        " section 'fetch' is missing"
    )
    execute(repository, "git", "rm", "--quiet", "dvc.lock")
    commit(repository)
    assert "error: cannot tell: HEAD holds no dvc.lock" in verify(repository).stderr
    for rev in ("nowhere", "--help"):
        result = verify(repository, f"--rev={rev}")
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert verify(repository, "--unknown").returncode == 2


def test_an_earlier_commit_is_verified_by_its_own_code(repository: Path) -> None:
    (repository / "pipeline/stages/train.py").write_text("raise SystemExit(9)", encoding="utf-8")
    commit(repository)
    assert verify(repository, "--rev", "HEAD~1").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_worktree_and_no_process(
    repository: Path, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "verify"],
        cwd=repository,
        env=subprocess_environment() | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    while "Running stage 'train'" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    stderr = process.communicate()[1]
    assert process.returncode == 128 + number
    assert (
        f"error: stopped by {number.name}; nothing half-written is left, run it again\n" in stderr
    )
    assert list((repository / ".dvc/tmp/worktrees").iterdir()) == [
        repository / ".dvc/tmp/worktrees/lock"
    ]
    assert execute(repository, "git", "worktree", "list").count("\n") == 1
    assert not processes_in(temporary)


def processes_in(folder: Path) -> list[str]:
    """Return the numbers of the processes whose current folder is in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(str(folder)):
                found.append(process.name)
        except OSError:
            continue
    return found

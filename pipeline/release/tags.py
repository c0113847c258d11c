"""What a champion's commit says, and the tags that are made of it. They are GTO's annotated tags.

`mnist-cnn@v1.2.0` is a version; all branches share the numbers. `mnist-cnn#prod#3` says which
version is the champion of the branch `champion`; each other branch has a stage of its own.
`dvc artifacts get` and `gto show` read both kinds. Of a stage's tags, the latest counts.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.repository.git import git, make_commit
from pipeline.repository.refs import Refs, Target

BRANCH = "champion"  # unless another is named
PRODUCTION = "prod"  # the stage of that branch
# Of a commit's message: the version that it makes the champion, and where it was published
TRAILER = "Model-version"
BRANCH_TRAILER = "Model-branch"
SOURCE_TRAILER = "Retrained-from"  # the commit that it was made from


class Assignments(NamedTuple):
    """What the tags of stages say."""

    last_number: int  # of all stages
    commit: str | None  # whose model is the champion of a branch
    seconds: int  # when it was made that, since 1970


def annotated_tags(root: Path, pattern: str) -> dict[str, str]:
    """Return the commit of each annotated tag whose name matches."""
    template = "--format=%(refname:strip=2) %(*objectname)"  # no commit if it is not annotated
    lines = git(root, "for-each-ref", template, f"refs/tags/{pattern}").splitlines()
    commits = {name: commit for name, _, commit in (line.partition(" ") for line in lines)}
    return {name: commit for name, commit in commits.items() if commit}


def next_version(root: Path, artifact: str) -> str:
    """Return the version after the latest.

    Its minor number grows, since the network's input and output stay what they are.
    """
    names = annotated_tags(root, f"{artifact}@*")
    matches = [re.fullmatch(r".+@v(\d+)\.(\d+)\.\d+", name) for name in names]
    numbers = [(int(match[1]), int(match[2])) for match in matches if match]
    if not numbers:
        return f"{artifact}@v1.0.0"
    major, minor = max(numbers)
    return f"{artifact}@v{major}.{minor + 1}.0"


def champion_version(root: Path, commit: str) -> str:
    """Return the version that the commit makes the champion; empty if its message names none."""
    return read_trailer(root, commit, TRAILER)


def source_trailer(root: Path, commit: str) -> str:
    """Return the line of a champion's commit that says what it was made from, if there is one."""
    source = read_trailer(root, commit, SOURCE_TRAILER)
    return f"{SOURCE_TRAILER}: {source}\n" if source else ""


def read_trailer(root: Path, commit: str, key: str) -> str:
    return git(root, "log", "-1", f"--format=%(trailers:key={key},valueonly)", commit).strip()


def stage_of(branch: str) -> str:
    """Return the stage of GTO that says which version is the champion of a branch."""
    if branch == BRANCH:
        return PRODUCTION
    # GTO allows a slash too, but Git's pattern NAME#* would not find such a tag.
    if branch != PRODUCTION and re.fullmatch(r"[^\W_]([\w-]*[^\W_])?", branch, re.ASCII):
        return branch
    allowed = re.sub(r"[^a-zA-Z0-9]+", "-", branch).strip("-")
    return f"{allowed}-{hashlib.sha256(branch.encode()).hexdigest()[:7]}".lstrip("-")


def missing_tags(target: Target, tip: str) -> Refs:
    """Make the tags that the champion at `tip` should have and has not.

    Returns each as a ref and its new tag object; the refs themselves are not set. They are the
    version's tag, and one that says that this version is the champion of the branch.
    """
    root = target.root
    version = champion_version(root, tip)
    if not version:
        return {}
    missing = {}
    commit = annotated_tags(root, version).get(version)
    if not commit:
        commit = tip
        missing[f"refs/tags/{version}"] = make_tag(root, version, commit, tip)
    assigned = read_assignments(target)
    if assigned.commit != commit:
        name = f"{target.artifact}#{stage_of(target.branch)}#{assigned.last_number + 1}"
        missing[f"refs/tags/{name}"] = make_tag(root, name, commit, tip)
    return missing


def read_assignments(target: Target) -> Assignments:
    """Read the tags of the model's stages as GTO does."""
    options = ("--sort=taggerdate", "--format=%(refname) %(*objectname) %(taggerdate:unix)")
    lines = git(target.root, "for-each-ref", *options, f"refs/tags/{target.artifact}#*")
    assigned = Assignments(0, None, 0)
    for line in lines.splitlines():
        if not (match := re.fullmatch(r".+#(.+)#(\d+) ([0-9a-f]+) (\d+)", line)):
            continue  # a tag that is not annotated, or of another kind
        stage, number, commit, seconds = match.groups()
        assigned = assigned._replace(last_number=max(assigned.last_number, int(number)))
        if stage == stage_of(target.branch):
            assigned = assigned._replace(commit=commit, seconds=int(seconds))
    return assigned


def make_tag(root: Path, name: str, commit: str, tip: str) -> str:
    """Make a tag object and return its hash.

    It is the same whoever makes it: its tagger, date and message are those of the commit `tip`.
    """
    header, _, message = git(root, "cat-file", "commit", tip).partition("\n\n")
    committer = next(line for line in header.splitlines() if line.startswith("committer "))
    tagger = committer.removeprefix("committer ")
    subject = message.partition("\n")[0]
    content = f"object {commit}\ntype commit\ntag {name}\ntagger {tagger}\n\n{subject}\n"
    return git(root, "mktag", content=content.encode())


def make_champion_commit(
    target: Target,
    source: str,
    files: Mapping[str, bytes],
    parent: str,
    message: str,
    version: str,
) -> str:
    """Make a commit that makes a version the champion of the branch; its tags will be the latest.

    What says so is added to the message.
    """
    message += f"{BRANCH_TRAILER}: {target.branch}\n{TRAILER}: {version}\n"
    latest = read_assignments(target).seconds
    return make_commit(target.root, source, files, parent, message, after=latest)


def renew(target: Target, tip: str) -> str:
    """Return `tip`; or a new commit of its model, if tags of `tip` cannot make that the champion.

    Either another branch has taken its version, or a later tag makes another model the champion of
    this branch. Such tags are left from before each branch had a stage of its own.
    """
    root, version = target.root, champion_version(target.root, tip)
    if not version:
        return tip
    commit = annotated_tags(root, version).get(version, tip)
    (tree, date), (tagged_tree, _) = (
        git(root, "log", "-1", "--format=%T %ct", name).split() for name in (tip, commit)
    )
    assigned = read_assignments(target)
    if tree != tagged_tree:
        commit, renewed = tip, next_version(root, target.artifact)
        subject = f"Publish {renewed}, which was {version} until another branch took that"
    elif assigned.commit != commit and assigned.seconds >= int(date):
        renewed, subject = version, f"Promote {version}"
    else:
        return tip
    message = f"{subject}\n\n{source_trailer(root, commit)}"
    return make_champion_commit(target, tip, {}, tip, message, renewed)

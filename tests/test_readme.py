"""The README's tree, commands and links are those of the repository."""

import re
import subprocess

from helpers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def tracked() -> set[str]:
    """Git's files: those of pipeline/ and benchmarks/ one by one, of other folders only the folder."""
    output = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = set()
    for path in output.splitlines():
        top, *rest = path.split("/")
        if top.startswith(".") or path.endswith("__init__.py"):
            continue
        paths.add(path if top in ("pipeline", "benchmarks") or not rest else f"{top}/")
    return paths


def test_the_tree_names_every_file_once_and_no_other() -> None:
    match = re.search(r"```text tree\n(.*?)```", README, re.DOTALL)
    assert match
    paths, folders = [], [""]
    for line in match[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders[depth + 1 :] = [folders[depth] + name]
        paths.append(folders[depth] + name)
    parents = {path for path in paths if path.endswith("/") and any(p.startswith(path) and p != path for p in paths)}
    assert len(paths) == len(set(paths))
    assert set(paths) - parents == tracked()


def test_every_make_target_is_listed_and_none_is_invented() -> None:
    listed = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], check=True, capture_output=True, text=True)
    targets = {line.split()[0] for line in listed.stdout.splitlines()}
    assert {"setup", "run", "test", "bench"} <= targets
    assert set(re.findall(r"`make (\w+)`|^make (\w+)", README, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }


def test_every_module_that_is_run_exists() -> None:
    modules = set(re.findall(r"python -m ((?:pipeline|benchmarks)[\w.]*)", README))
    assert modules
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_link_to_a_file_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

"""The README's commands and links are those of the repository."""

import re
import subprocess

from helpers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_make_target_is_listed_and_none_is_invented() -> None:
    listed = subprocess.run(
        ["make", "-C", ROOT, "--no-print-directory"], check=True, capture_output=True, text=True
    )
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

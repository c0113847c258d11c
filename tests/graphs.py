"""Random DVC graphs and random edits, for comparing what drives them.

A graph is a few files and declarations, drawn by Hypothesis and written to as many folders as are
compared. Commands are `cat` and `echo`: equal inputs give equal bytes.
"""

import json
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.repository.dvc_worker import DvcWorker

PARAM_FILES = ("params.yaml", "conf/more.yaml")
VALUES = st.integers(1, 2)  # at first all are 0
PLAIN = ("plain0.txt", "work/plain1.txt")
SOURCES = ("source0.txt", "sub/source1")  # a file and a folder; each is tracked by a .dvc file
OUTSIDE = "../outside.txt"
IMPORTED = "imported.txt"  # from there


@dataclass(frozen=True)
class Node:
    """A declaration in a dvc.yaml; number `index` of the graph."""

    index: int
    folder: str  # of its dvc.yaml
    wdir: str
    shape: str  # one stage, foreach or matrix
    earlier: tuple[int, ...]  # it depends on their outputs
    files: tuple[str, ...]  # and on these
    needs_folder: bool  # it depends on the folder in which others have outputs
    params: tuple[tuple[str, str], ...]  # file and name
    uses_var: bool
    makes_folder: bool
    ignores_inputs: bool  # gives the same whatever it depends on
    out_options: tuple[tuple[str, bool], ...]
    options: tuple[str, ...]  # always_changed, frozen
    kind: str  # of its output: outs, metrics or nothing

    @property
    def variants(self) -> list[str]:
        return [""] if self.shape == "one" else ["@a", "@b"]

    def out(self, variant: str) -> str:
        place = "" if self.needs_folder else "work/"
        return f"{place}o{self.index}{variant.replace('@', '-')}"


@st.composite
def nodes(draw: st.DrawFn, index: int) -> Node:
    def some(*choices: Any) -> st.SearchStrategy[tuple[Any, ...]]:
        return st.lists(st.sampled_from(choices), max_size=2, unique=True).map(tuple)

    earlier = draw(some(*range(index))) if index else ()
    options = [("cache", False), ("persist", True)]
    return Node(
        index=index,
        folder=draw(st.sampled_from(["", "", "sub"])),
        wdir=draw(st.sampled_from(["", "", "", "elsewhere"])),
        shape=draw(st.sampled_from(["one", "one", "one", "foreach", "matrix"])),
        earlier=earlier,
        files=draw(some(*PLAIN, *SOURCES, IMPORTED, OUTSIDE)),
        needs_folder=draw(st.integers(0, 4)) == 0,
        params=draw(some(*((file, name) for file in PARAM_FILES for name in ("a", "b.c")))),
        uses_var=draw(st.booleans()),
        makes_folder=draw(st.integers(0, 3)) == 0,
        ignores_inputs=draw(st.integers(0, 3)) == 0,
        out_options=draw(st.sampled_from([(), (), (options[0],), (options[1],), tuple(options)])),
        options=draw(st.sampled_from([(), (), (), (), ("always_changed",)])),
        kind=draw(st.sampled_from(["outs", "outs", "outs", "metrics", "nothing"])),
    )


class Edit(NamedTuple):
    kind: str
    number: int  # says which of what there is
    value: int


EDITS = (
    "param",
    "param",
    "var",
    "plain file",
    "plain file",
    "plain file removed",
    "output deleted",
    "output modified",
    "lock entry removed",
    "lock removed",
    "source changed",
    "source added again",
    "source lost",
    "source lost everywhere",
    "new source",
    "import changed",
    "frozen",
    "command",
    "all put back",
    "all put back",
)


@st.composite
def graphs(draw: st.DrawFn, edits: int) -> tuple[list[Node], list[Edit]]:
    graph = [draw(nodes(index)) for index in range(draw(st.integers(2, 4)))]
    edit = st.builds(Edit, st.sampled_from(EDITS), st.integers(0, 20), VALUES)
    different = st.lists(edit, min_size=edits, max_size=edits, unique_by=lambda edit: edit.kind)
    return graph, draw(different)


class Workspace:
    """A folder with a graph, in which edits are made; equal edits in equal folders."""

    def __init__(self, folder: Path, empty: Path, graph: list[Node]) -> None:
        shutil.copytree(empty, folder, symlinks=True)
        self.folder, self.graph, self.dvc = folder, graph, DvcWorker(folder)
        self.frozen: set[int] = set()
        self.write(OUTSIDE, "outside 0\n")
        self.put_back()
        self.write("source0.txt", "source 0\n")
        self.write("sub/source1/a", "source 0\n")
        self.write("sub/source1/deep/b", "source\n")
        self.write(".dvcignore", ".gitignore\n")  # their lines come in the order of running
        for name in ("elsewhere", "sub/elsewhere"):
            (folder / name).mkdir(parents=True)
        self.declare()
        for source in SOURCES:
            self.dvc.run("add", source)
        self.dvc.run("import-url", OUTSIDE, IMPORTED)

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(self, *error: object) -> None:
        self.dvc.close()

    def put_back(self) -> None:
        """Give parameters, commands and plain files their first values."""
        self.commands: dict[int, int] = {}
        self.params = {file: {"a": 0, "b": {"c": 0, "d": 0}} for file in PARAM_FILES}
        self.var = 0
        for name in PLAIN:
            self.write(name, "plain 0\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def declare(self) -> None:
        """Write every dvc.yaml and every file of parameters."""
        for file, values in self.params.items():
            self.write(file, json.dumps(values))
        self.write("vars/v.json", json.dumps({"var": self.var}))
        for folder in ("", "sub"):
            declared = {
                f"s{node.index}": self.stage(node) for node in self.graph if node.folder == folder
            }
            path = os.path.relpath("vars/v.json", folder or ".")
            content = {"vars": [path], "stages": declared}
            (self.folder / folder).mkdir(exist_ok=True)
            with (self.folder / folder / "dvc.yaml").open("w", encoding="utf-8") as stream:
                YAML().dump(content, stream)

    def stage(self, node: Node) -> dict[str, Any]:
        suffix = {"one": "", "foreach": "-${item}", "matrix": "-${item.x}"}[node.shape]
        out = node.out("") + suffix
        deps = [*node.files, *["work"] * node.needs_folder]
        for index in node.earlier:
            other = self.graph[index]
            # A folder must not be a dependency of what it holds.
            if other.kind != "nothing" and (node.needs_folder or not other.needs_folder):
                deps += [other.out(variant) for variant in other.variants]
        where = os.path.normpath(os.path.join(node.folder, node.wdir))  # noqa: PTH118

        def local(path: str) -> str:
            return os.path.relpath(path, where)

        reads = [shlex.quote(local(path)) for path in deps]
        command = f"echo {self.commands.get(node.index, 0)}"
        if node.uses_var:
            command += " var ${var}"
        if reads and not node.ignores_inputs:
            command += f" && find {' '.join(reads)} -type f ! -name .gitignore | sort | xargs cat"
        for file, name in node.params if not node.ignores_inputs else ():
            command += f" && grep -o {name[-1]!r}..[0-9] {local(file)} || true"
        target = local(f"{out}/part" if node.makes_folder else out)
        if node.kind == "nothing":
            target = "/dev/null"
        append = ">>" if ("persist", True) in node.out_options else ">"
        made = {local(out): dict(node.out_options)} if node.out_options else local(out)
        body = {
            "cmd": f"mkdir -p {shlex.quote(os.path.dirname(target) or '.')} && "  # noqa: PTH120
            f"({command}) {append} {target}",
            **({"wdir": node.wdir} if node.wdir else {}),
            **({"deps": [local(path) for path in deps]} if deps else {}),
            **({"params": [{local(file): [name]} for file, name in node.params]}),
            **({node.kind: [made]} if node.kind != "nothing" else {}),
            **dict.fromkeys(node.options, True),
            **({"frozen": True} if node.index in self.frozen else {}),
        }
        if not node.params:
            del body["params"]
        if node.shape == "foreach":
            return {"foreach": ["a", "b"], "do": body}
        return {"matrix": {"x": ["a", "b"]}, **body} if node.shape == "matrix" else body

    def edit(self, edit: Edit) -> None:
        kind, number, value = edit
        node = self.graph[number % len(self.graph)]
        out = self.folder / node.out(node.variants[number % len(node.variants)])
        source = SOURCES[number % 2]
        source_file = self.folder / (source if number % 2 == 0 else f"{source}/a")
        match kind:
            case "param":
                values = self.params[PARAM_FILES[number % 2]]
                if number % 3:
                    values["a"] = value
                else:
                    values["b"] = {"c": value, "d": number}
            case "var":
                self.var = value
            case "plain file":
                self.write(PLAIN[number % 2], f"plain {value}\n")
            case "plain file removed":
                (self.folder / PLAIN[number % 2]).unlink(missing_ok=True)
            case "output deleted":
                remove(out)
            case "output modified":
                target = out / "part" if out.is_dir() else out
                if target.is_file():
                    target.chmod(0o644)
                    target.write_text(f"modified {value}\n")
            case "lock entry removed" | "lock removed":
                self.unlock(node, everything=kind == "lock removed")
            case "source changed" | "source added again":
                source_file.parent.mkdir(parents=True, exist_ok=True)
                source_file.unlink(missing_ok=True)
                source_file.write_text(f"source {value}\n")
                if kind == "source added again":
                    self.dvc.run("add", source)
            case "source lost" | "source lost everywhere":
                remove(self.folder / source)
                if kind == "source lost everywhere":
                    self.forget(source)
            case "new source":
                self.write(f"new{number % 3}.txt", f"new {value}\n")
                self.dvc.run("add", f"new{number % 3}.txt")
            case "import changed":
                self.write(OUTSIDE, f"outside {value}\n")
                if number % 2:
                    self.dvc.run("update", f"{IMPORTED}.dvc")
            case "frozen":
                self.frozen ^= {node.index}
            case "command":
                self.commands[node.index] = value
            case "all put back":
                self.put_back()
        self.declare()

    def unlock(self, node: Node, *, everything: bool) -> None:
        lock = self.folder / node.folder / "dvc.lock"
        if not lock.is_file():
            return
        if everything:
            lock.unlink()
            return
        content = YAML().load(lock.read_text())
        content["stages"].pop(f"s{node.index}{node.variants[0]}", None)
        with lock.open("w", encoding="utf-8") as stream:
            YAML().dump(content, stream)

    def forget(self, source: str) -> None:
        """Delete the source's data from the cache."""
        (out,) = YAML(typ="safe").load((self.folder / f"{source}.dvc").read_text())["outs"]
        cache = self.folder / ".dvc/cache/files/md5"
        (cache / out["md5"][:2] / out["md5"][2:]).unlink(missing_ok=True)

    def files(self) -> dict[str, Any]:
        """All files but DVC's and Git's own; a dvc.lock as what it means."""
        found: dict[str, Any] = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder)
            if path.is_file() and not {".git", ".dvc"} & set(name.parts[:1]):
                text = path.read_text()
                found[str(name)] = YAML(typ="safe").load(text) if name.suffix == ".lock" else text
        return {name: text for name, text in found.items() if not name.endswith(".gitignore")}


def remove(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)

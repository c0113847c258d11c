"""A command more for DVC: `dvc place SOURCE TARGET` moves tracked data into the workspace.

SOURCE.dvc and SOURCE become TARGET.dvc and TARGET, by two renames under DVC's locks: never while
another DVC works on TARGET or a folder around it. The first rename decides: DVC knows the data from
then on and can check them out, whatever happens before the second. dvc_program.py adds the command;
this file imports nothing of the package.
"""

from pathlib import Path
from typing import Any

from dvc.cli.command import CmdBase
from dvc.exceptions import DvcException
from dvc.rwlock import rwlock


class CmdPlace(CmdBase):  # type: ignore[misc]  # DVC has no types
    """`dvc place SOURCE TARGET`"""

    def run(self) -> int:
        source, target = Path(self.args.source), Path(self.args.target)
        command, paths = f"dvc place {source} {target}", [str(target.absolute())]
        is_hard = self.config["core"].get("hardlink_lock", False)
        locked = rwlock(self.repo.tmp_dir, self.repo.fs, command, [], paths, is_hard)
        with self.repo.lock, locked:
            place(source, target)
            # `dvc checkout` on a branch without the data then removes them, as what it made itself.
            self.repo.state.save_link(paths[0], self.repo.fs)
        return 0


def add_parser(subparsers: Any, parent_parser: Any) -> None:
    """Add the command; DVC calls this as it does for its own."""
    parser = subparsers.add_parser("place", parents=[parent_parser])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.set_defaults(func=CmdPlace)


def place(source: Path, target: Path) -> None:
    """Move the record, unless it is there already, and then the data."""
    record, new_record = (path.with_name(f"{path.name}.dvc") for path in (target, source))
    is_recorded = record.exists() and record.read_bytes() == new_record.read_bytes()
    if not is_recorded:
        for path in (target, record):
            if path.exists():
                raise DvcException(f"{path} is there already")
        new_record.rename(record)
    if not target.exists():
        source.rename(target)

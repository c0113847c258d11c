"""What running a commit again has shown, and how it is said."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.release.receipts import Environment


@dataclass(frozen=True)
class OutputComparison:
    """An output in the commit's dvc.lock and in that of the run now."""

    stage: str
    path: str
    locked: str  # md5
    found: str | None  # md5; None if the run gave no such output

    @property
    def is_same(self) -> bool:
        return self.locked == self.found


@dataclass(frozen=True)
class Verification:
    """What a run of the commit on this machine shows."""

    commit: str
    outs: list[OutputComparison]
    modified: list[str]  # files here that differ from the commit's dvc.lock, a message each
    trained_on: Environment | None  # from the commit's receipt
    this_machine: Environment | None  # from the receipt that the run wrote

    @property
    def first_different(self) -> str | None:
        return next((out.stage for out in self.outs if not out.is_same), None)

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Where the environments differ: the value where it was trained, and the value here."""
        then, now = self.trained_on or {}, self.this_machine or {}
        return {
            name: (then.get(name), now.get(name))
            for name in then | now
            if then.get(name) != now.get(name)
        }

    @property
    def verdict(self) -> str:
        if self.modified:
            return "different"
        if not self.first_different:
            return "same"
        return "unknown" if self.changes else "different"


def describe(verification: Verification) -> str:
    """Return the verification as text."""
    stages = dict.fromkeys(out.stage for out in verification.outs)
    width = max(map(len, stages))
    lines = [f"commit {verification.commit}", ""]
    for stage in stages:
        wrong = [out for out in verification.outs if out.stage == stage and not out.is_same]
        lines.append(f"{stage:{width}}  {'different' if wrong else 'same'}")
        for out in wrong:
            hashes = f"dvc.lock says {out.locked[:8]}, this run gave {(out.found or 'nothing')[:8]}"
            lines.append(f"  {out.path}: {hashes}")
    lines += ["", *(f"modified: {message}" for message in verification.modified)]
    environment = verification.this_machine or {}
    shown = ", ".join(f"{name} {value}" for name, value in environment.items())
    lines.append(f"environment: {shown}")
    if verification.trained_on is None:
        lines.append("the model's maker: no receipt in the commit")
    else:
        lines += [
            f"the model's maker: {name} {then}, here {now}"
            for name, (then, now) in verification.changes.items()
        ]
    return "\n".join([*lines, "", conclusion(verification)])


def conclusion(verification: Verification) -> str:
    """Return the verdict and its reason in one line."""
    if verification.verdict == "same":
        return "same: every output is what this commit's code, data and parameters give"
    if verification.modified:
        return f"different: {verification.modified[0]}"
    stage = verification.first_different
    if verification.verdict == "different":
        return f"different: {stage} is the first stage that gives something else than dvc.lock says"
    if verification.trained_on is None:
        reason = "and no receipt says on what machine the model was made"
    else:
        reason = f"but so does this machine: {', '.join(verification.changes)}"
    return f"cannot tell: {stage} differs, {reason}"


def to_json(verification: Verification) -> str:
    """Return the verification for machines; other programs read these keys."""
    stages = {out.stage: "same" for out in verification.outs}
    stages |= {out.stage: "different" for out in verification.outs if not out.is_same}
    content = {
        "commit": verification.commit,
        "verdict": verification.verdict,
        "conclusion": conclusion(verification),
        "first_different": verification.first_different,
        "stages": stages,
        "outs": [asdict(out) for out in verification.outs],
        "damaged": verification.modified,
        "environment": {"maker": verification.trained_on, "here": verification.this_machine},
    }
    return json.dumps(content, indent=2, ensure_ascii=False)

"""Remove every safeguard of exact training, one at a time, and see that a test fails.

    python scripts/safeguards.py            # a few minutes
    python scripts/safeguards.py shift      # those whose name contains a word

Each is a small edit of a copy of the package; the named tests run against the copy. A safeguard whose removal
no test notices, or whose code is no longer there, is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
STEP, LOOP, RANKS = "test_step.py", "test_loop.py", "test_ranks.py"


@dataclass(frozen=True)
class Safeguard:
    """What is removed, by which edit, and where that must be noticed."""

    name: str
    file: str
    code: str
    without: str
    tests: tuple[str, ...]


SAFEGUARDS: Final = (
    Safeguard(
        "mask refusal: a stock call on a packed row",
        "model/modeling.py",
        "if position_ids is None or position_ids.shape[-1] < 2 or harmless:",
        "if True:",
        ("tests/model/test_attention.py",),
    ),
    Safeguard(
        "mask refusal: a mask for packed attention",
        "model/attention.py",
        "if attention_mask is not None:\n        raise",
        "if False:\n        raise",
        ("tests/model/test_attention.py",),
    ),
    Safeguard(
        "position reset between documents",
        "model/attention.py",
        "return torch.tensor([[p for document in self.documents for p in document.positions()]])",
        "return torch.arange(self.tokens)[None]",
        ("tests/model/test_attention.py", STEP),
    ),
    Safeguard(
        "position reset between branches",
        "model/attention.py",
        "ids.extend(range(self.trunk, self.trunk + branch))",
        "ids.extend(range(len(ids), len(ids) + branch))",
        ("tests/model/test_attention.py", STEP),
    ),
    Safeguard(
        "branches do not see one another",
        "model/attention.py",
        "allowed[start:stop, start:stop] = True",
        "allowed[start:stop, :stop] = True",
        ("tests/model/test_attention.py", STEP),
    ),
    Safeguard(
        "division by the targets of the step, not of the row",
        "training/step.py",
        "(losses * weights).sum() / total",
        "(losses * weights).sum() / weights.sum().clamp(min=1e-9)",
        (STEP,),
    ),
    Safeguard(
        "division by the targets of all ranks",
        "training/loop.py",
        "if whole == 0:",
        "whole = sum(one.total for one in weights) or whole\n        if whole == 0:",
        (RANKS,),
    ),
    Safeguard(
        "weights of samples",
        "training/loss.py",
        'if weighting == "token" or',
        'if weighting != "none" or',
        (STEP,),
    ),
    Safeguard(
        "shift of the targets inside each document",
        "training/rows.py",
        "        layout = PackedLayout(tuple(documents))\n        grid",
        "        targets = [*ids[1:], IGNORE]\n"
        "        layout = PackedLayout(tuple(documents))\n        grid",
        (STEP,),
    ),
    Safeguard(
        "blank image on ranks without one",
        "training/step.py",
        "if self.image_size is None or row.images:",
        "if True:",
        (RANKS,),
    ),
    Safeguard(
        "idle rows on ranks with fewer",
        "training/loop.py",
        "idle = int(self.world.largest([len(rows)])[0]) - len(rows)",
        "idle = 0 * int(self.world.largest([len(rows)])[0])",
        (RANKS,),
    ),
    Safeguard(
        "augmentation drawn from the row's own stream",
        "training/rows.py",
        'seed = derive_seed(self.seed, "augment", number, place, shown)',
        "seed = int(np.random.default_rng().integers(2**31))",
        (LOOP,),
    ),
    Safeguard(
        "moments of the optimizer in the checkpoint",
        "training/loop.py",
        "load_training_state(self._resumed, self.model, self._optimizer, world)",
        "pass",
        (LOOP,),
    ),
    Safeguard(
        "nothing is updated by a loss that is not finite",
        "training/loop.py",
        "if not all(map(math.isfinite, (total, questions, norm))):",
        "if False:",
        (LOOP,),
    ),
)


def noticed(safeguard: Safeguard) -> str | None:
    """The test that fails without it; None if none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "src", copy / "src")
        shutil.copytree(ROOT / "tests", copy / "tests")
        shutil.copy(ROOT / "pyproject.toml", copy)
        file = copy / "src" / "infimed" / safeguard.file
        text = file.read_text()
        if text.count(safeguard.code) != 1:
            raise SystemExit(f"{safeguard.name}: its code is not, or not once, in {safeguard.file}")
        file.write_text(text.replace(safeguard.code, safeguard.without))
        tests = [t if "/" in t else f"tests/training/{t}" for t in safeguard.tests]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests],
            cwd=copy, capture_output=True, text=True, timeout=900,
            env={**os.environ, "PYTHONPATH": f"{copy / 'src'}:{copy}"},
        )  # fmt: skip
    if done.returncode not in (0, 1):
        raise SystemExit(f"{safeguard.name}: tests did not run\n{done.stdout[-2000:]}{done.stderr}")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return failed[0].split(" - ")[0].removeprefix("FAILED ") if failed else None


def main() -> None:
    wanted = " ".join(sys.argv[1:])
    missed = 0
    for safeguard in SAFEGUARDS:
        if wanted in safeguard.name:
            found = noticed(safeguard)
            missed += found is None
            print(f"{safeguard.name}: {found or 'NO TEST FAILS'}", flush=True)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()

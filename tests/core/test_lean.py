"""A package that is left out is not there for anybody in the process; everything else is."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from infimed.core.lean import leave_out
{leave_out}
import pyarrow as pa
table = pa.table({{"row": pa.array([1, 2])}})
assert table["row"].to_numpy().tolist() == [1, 2]
import pyarrow.dataset
print("pandas" in sys.modules)
"""


def _told(leave_out: str) -> str:
    code = SCRIPT.format(leave_out=leave_out)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_pyarrow_works_without_the_pandas_it_would_load() -> None:
    pytest.importorskip("pandas")
    if _told("") == "False":
        pytest.skip("this pyarrow leaves pandas alone")
    assert _told("leave_out('pandas')") == "False"


def test_what_is_left_out_cannot_be_imported_and_says_so() -> None:
    code = (
        "from infimed.core.lean import leave_out; leave_out('colorsys')\n"
        "try:\n    import colorsys\nexcept ModuleNotFoundError as error:\n    print(error.name, '|', error)\n"
        "import wave"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "colorsys | colorsys is left out of this process"

"""Curation: records per second, memory, resumption, near texts, DICOM, deciding again, and peers, in one run.

    python benchmarks/curation.py --peer VENV/bin/python   # everything that is installed, about an hour
    python benchmarks/curation.py speed again          # single parts
    python benchmarks/curation.py peer texts --peer VENV/bin/python
    python benchmarks/curation.py scale --scale 100000 400000

Rates are medians over rounds in which the compared things take turns, so that a busy machine slows
all of them. Beside the wall rate stands the rate by processor time: records per second that two
cores would do if nothing else ran on them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2

from curation_costs import costs, real
from curation_data import Crowd, dicom_files, jpeg_shards, jpeg_source
from curation_peer import MATCHING, OPERATORS, run_peer, write_input
from infimed.core.run import environment
from infimed.curation import curate, default_rubric, ledger, read_summary
from infimed.curation.image_signals import measure_image
from infimed.curation.signals import Signals, record_modality
from infimed.curation.text_signals import measure_text
from infimed.curation.workers import WORKER, WORKER_SETTINGS
from infimed.data import imaging
from infimed.data.record import ImageRef, question_record
from infimed.data.shards import ShardSet, open_shards

CORES = 2
PARTS = ("speed", "peer", "texts", "costs", "real", "dicom", "burned-in", "again", "ray", "scale")


def cpu_s() -> float:
    """Processor seconds of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def commit() -> str:
    """Short hash of the checkout that is measured, '?' outside of one."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    )  # fmt: skip
    return done.stdout.strip() or "?"


def line(name: str, value: str, note: str = "") -> None:
    print(f"{name:58s} {value:>22s}  {note}", flush=True)


def rate(records: int, wall_s: float, used_s: float) -> str:
    return f"{records / wall_s:.0f}/s, cpu {CORES * records / used_s:.0f}/s"


# --- speed -------------------------------------------------------------------------------------


def bare(folder: Path, part: int, parts: int) -> None:
    """The ceiling, one process of `parts`: decode and signals in a bare loop, bytes in memory."""
    cv2.setNumThreads(1)
    shards = open_shards(folder)
    records = [shards.record(i) for i in range(part, len(shards), parts)]
    data = [shards.image_bytes(record.images[0].sha256) for record in records]
    print("ready", flush=True)
    sys.stdin.readline()
    began, used = time.perf_counter(), time.process_time()
    for record in records:
        measure_text(record)
    for encoded in data:
        measure_image(imaging.decode_planes(encoded))
    spent = time.perf_counter() - began
    print(json.dumps({"wall": spent, "cpu": time.process_time() - used}), flush=True)


def run_bare(folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of the ceiling in `CORES` processes that begin together."""
    command = [sys.executable, __file__, "bare", str(folder), "--parts", str(CORES), "--part"]
    started = [
        subprocess.Popen(
            [*command, str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**WORKER_SETTINGS, **os.environ},
        )
        for i in range(CORES)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [json.loads(process.communicate()[0]) for process in started]
    return max(f["wall"] for f in found), sum(f["cpu"] for f in found)


def run_engine(shards: ShardSet, out: Path, **options: Any) -> tuple[float, float]:
    """Wall and processor seconds of a curation from nothing."""
    shutil.rmtree(out, ignore_errors=True)
    began, used = time.perf_counter(), cpu_s()
    curate(shards, out, **options)
    return time.perf_counter() - began, cpu_s() - used


def speed(folder: Path, records: int, rounds: int) -> None:
    """Engines against the bare loop before and after them: a shared machine is not as fast from minute to minute."""
    shards = jpeg_shards(folder, records)
    sizes = shards.images["size"].to_numpy()
    grey = sum(
        imaging.decode_planes(shards.image_bytes(s.as_py())).ndim == 2
        for s in shards.images["sha256"][:500]
    )
    rules = default_rubric()
    print(
        f"\n{records} JPEG records of 512x512, mean {sizes.mean() / 1e3:.0f} kB, {grey / 5:.0f} % grey;"
    )
    print(
        f"{len(rules.rules)} record rules and {len(rules.dataset_rules)} data-set rules, all findings on\n"
    )
    of_records = rules.only([rule.id for rule in rules.rules])
    runs: dict[str, dict[str, Any]] = {
        f"record rules, {CORES} processes": {"rubric": of_records, "engine": "processes"},
        f"record rules, {CORES} threads": {"rubric": of_records, "engine": "threads"},
        f"all rules, {CORES} processes": {"rubric": rules, "engine": "processes"},
    }
    ceilings, found = [run_bare(shards.path)], {name: [] for name in runs}
    shares: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, options in runs.items():
            found[name].append(run_engine(shards, folder / "engine", workers=CORES, **options))
            ceilings.append(run_bare(shards.path))
            beside = [sum(both) / 2 for both in zip(*ceilings[-2:], strict=True)]
            shares[name].append((beside[0] / found[name][-1][0], beside[1] / found[name][-1][1]))
    line("ceiling", _rates(records, ceilings), f"{len(ceilings)} times")
    for name, times in found.items():
        wall, used = (100 * median(share[i] for share in shares[name]) for i in (0, 1))
        line(
            f"curate, {name}",
            _rates(records, times),
            f"{wall:.0f} % of the ceiling, cpu {used:.0f} %",
        )
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-c", WORKER], text=True, check=True,
        input=json.dumps(worker_job(shards, folder / "start")) + "\n",
    )  # fmt: skip
    line("start of a worker process, in it", f"{time.perf_counter() - began:.1f} s")
    cost = ledger.read_ledger(folder / "engine", ledger.COST)
    for name in ("decode_ms", "image_ms", "text_ms", "rules_ms"):
        line(f"  {name} a record, median", f"{median(cost[name].to_pylist()):.3f} ms")


def _rates(records: int, times: list[tuple[float, float]]) -> str:
    wall, used = (median(t[i] for t in times) for i in (0, 1))
    return rate(records, wall, used)


def worker_job(shards: ShardSet, out: Path) -> dict[str, Any]:
    ledger.Parts(out, {})
    rubric = default_rubric().to_dict()
    return {
        "shards": str(shards.path), "out": str(out), "key": {}, "rubric": rubric,
        "chunk_rows": ledger.CHUNK_ROWS, "reuse": False, "old_rubric": None,
    }  # fmt: skip


# --- the peer ----------------------------------------------------------------------------------


def peer(folder: Path, records: int, rounds: int, python: Path | None) -> None:
    every = default_rubric()
    same = every.only(MATCHING)
    print(
        f"\ndata-juicer 1.6 on {OPERATORS.count('- ')} operators; ours on the {len(same.all_rules)} rules"
        f" like them, and on all {len(every.all_rules)}"
    )
    if python is None or not python.with_name("dj-process").exists():
        line("data-juicer", "not installed", "see benchmarks/curation_peer.py")
        return
    shards = jpeg_shards(folder, records)
    data = write_input(jpeg_source(folder, records), folder)
    ours, theirs, ours_cpu, theirs_cpu, alone, all_of_it = [], [], [], [], [], []
    for _ in range(rounds):
        shutil.rmtree(folder / "peer", ignore_errors=True)
        wall, used = run_engine(shards, folder / "ours", workers=CORES, rubric=same)
        all_of_it.append(run_engine(shards, folder / "ours-all", workers=CORES)[0])
        result = run_peer(python, data, folder / "peer", CORES)
        ours.append(wall)
        ours_cpu.append(used)
        theirs.append(result.operators_s)
        theirs_cpu.append(result.cpu_s)
        alone.append(result.command_s - result.operators_s)
        table = ledger.read_ledger(folder / "ours", ledger.SIGNALS, ["images"])
        sizes = [(row[0]["width"], row[0]["height"]) for row in table["images"].to_pylist()]
        assert result.kept == records, f"the peer keeps {result.kept} of {records} clean records"
        assert set(result.sizes) == set(sizes), "the two tools see other image sizes"
        kept = read_summary(folder / "ours").kept
    line("data-juicer, operators only", f"{records / median(theirs):.0f}/s")
    line("  its set-up and export, not counted", f"{median(alone):.1f} s")
    line(
        "  processor time of its whole command",
        f"{1e3 * median(theirs_cpu) / records:.1f} ms a record",
    )
    line("curate --only the rules like them, whole command", f"{records / median(ours):.0f}/s")
    line("  its processor time", f"{1e3 * median(ours_cpu) / records:.1f} ms a record")
    walls = median(t / o for t, o in zip(theirs, ours, strict=True))
    cpus = median(t / o for t, o in zip(theirs_cpu, ours_cpu, strict=True))
    line("  ratio, median of rounds", f"wall {walls:.1f}x, cpu {cpus:.1f}x")
    line("curate with all rules, whole command", f"{records / median(all_of_it):.0f}/s")
    walls = median(t / o for t, o in zip(theirs, all_of_it, strict=True))
    line("  ratio, median of rounds", f"wall {walls:.1f}x")
    line("filters keep the same records, same image sizes", "equal", f"{records} records")
    line(
        "  left after duplicates",
        f"{kept} and {result.survivors}",
        "equal hashes are not equal pictures",
    )


def texts(python: Path | None) -> None:
    """Near-text duplicates of 50,000 captions, and the MinHash of data-juicer and datatrove."""
    from matching import row
    from matching_texts import texts_part

    texts_part(50_000, python or "", row)


# --- DICOM -------------------------------------------------------------------------------------


def dicom(folder: Path, files: int) -> None:
    from infimed.data.importing import import_data

    paths = dicom_files(folder, files)
    rubric = default_rubric()
    ref = ImageRef("x", "x", 512, 512, {"modality": "CT"})
    record = question_record(
        id="x", question="Is there a lesion?", answer="no", images=(ref,), task="closed"
    )
    began, used = time.perf_counter(), time.process_time()
    for path in paths:
        measured = measure_image(imaging.decode_planes(path.read_bytes()))
        rubric.judge(record, Signals(measure_text(record), (measured,), record_modality(record)))
    wall, spent = time.perf_counter() - began, time.process_time() - used
    print(f"\nDICOM, {files} phantoms of 512x512, 16 bit")
    line(
        "read, decode, window, signals, rules; one thread",
        f"{files / wall:.0f}/s, cpu {files / spent:.0f}/s",
    )
    out = folder / f"dicom-{files}-shards"
    if not (out / "manifest.json").is_file():
        import_data(folder / f"dicom-{files}", out)
    shards = open_shards(out)
    wall, spent = run_engine(shards, folder / "dicom-ledger", workers=CORES, engine="threads")
    line(f"curate from shards, {CORES} threads", rate(len(shards), wall, spent))


def burned_in() -> None:
    """The gate before the reader of burned-in text: its cost, and the clean images that it hands on."""
    from privacy import clean

    cv2.setNumThreads(1)
    clean(20)


# --- deciding again, scale, Ray ------------------------------------------------------------------


def again(folder: Path, records: int) -> None:
    source = Crowd(records)
    out = folder / f"crowd-{records}"
    curate(source, out, workers=CORES)
    print(f"\nDeciding again from a ledger of {records} records, no image opened")
    for settings in (
        {"readability.blurred_image.min_sharpness": 1.2},
        {"completeness.short_response.min_words": 3.0, "duplication.near_image": "note"},
        {},
    ):
        rubric = default_rubric().with_settings(settings)
        began, used = time.perf_counter(), time.process_time()
        curate(source, out, rubric=rubric)
        spent = time.perf_counter() - began
        name = ", ".join(settings) or "back to the defaults"
        line(name, f"{spent:.1f} s, cpu {time.process_time() - used:.1f} s")


def peak_mib() -> float:
    """Peak resident memory of this process, MiB; `ru_maxrss` begins with what the parent had when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def crowd_run(folder: Path, records: int) -> None:
    """One curation in a process of its own; prints its seconds and peak memory."""
    if os.environ.get("FRESH"):
        shutil.rmtree(folder, ignore_errors=True)
    began, used = time.perf_counter(), time.process_time()
    summary = curate(Crowd(records), folder, workers=1)
    wall, used = time.perf_counter() - began, time.process_time() - used
    found = {"wall": wall, "cpu": used, "peak_mib": peak_mib()}
    print(json.dumps({**found, "dropped": summary.dropped, "images": summary.images}))


def start_crowd(folder: Path, records: int, fresh: bool) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "crowd", str(folder), "--records", str(records)]
    env = {**os.environ, "FRESH": "1" if fresh else ""}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def digest(folder: Path) -> list[str]:
    names = (ledger.SIGNALS, ledger.FINDINGS, ledger.VERDICTS)
    return [hashlib.sha256(ledger.path_of(folder, n).read_bytes()).hexdigest() for n in names]


def scale(folder: Path, sizes: list[int]) -> None:
    print(
        "\nGenerated records, 2,000 pictures each a little changed; 5 % exact copies, 2 % brighter copies"
    )
    for records in sizes:
        found = json.loads(start_crowd(folder / "scale", records, True).communicate()[0])
        line(
            f"{records} records, one thread",
            f"{found['wall']:.0f} s, cpu {found['cpu']:.0f} s",
            f"peak {found['peak_mib']:.0f} MiB, {1e6 * found['cpu'] / records:.0f} us a record,"
            f" {found['dropped']} dropped, {found['images']} images",
        )
    records, whole = sizes[-1], folder / "scale"  # the ledger that the last one left
    killed = folder / "killed"
    shutil.rmtree(killed, ignore_errors=True)
    process = start_crowd(killed, records, True)
    parts, half = killed / ledger.PARTS, records // ledger.CHUNK_ROWS // 2
    while len(list(parts.glob("signals-*.parquet"))) < half and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(parts.glob("signals-*.parquet")))
    start_crowd(killed, records, False).wait()
    same = digest(whole) == digest(killed)
    line(
        f"killed after {done} of {-(-records // ledger.CHUNK_ROWS)} chunks of the last, resumed",
        "same ledger" if same else "DIFFERENT",
    )


def ray(folder: Path, records: int) -> None:
    print("\nRay Data")
    try:
        import ray as installed
    except ImportError:
        line("ray", "not installed", "pip install 'infimed[ray]'")
        return
    shards = (
        jpeg_shards(folder, 20_000, size=96, acquisitions=8)
        if records == 0
        else jpeg_shards(folder, records)
    )
    local = run_engine(shards, folder / "local", workers=CORES)
    remote = run_engine(shards, folder / "ray", workers=CORES, engine="ray")
    same = digest(folder / "local") == digest(folder / "ray")
    line(
        f"ray {installed.__version__}, {len(shards)} records",
        f"{remote[0]:.0f} s",
        f"local {local[0]:.0f} s",
    )
    line("signals, findings, verdicts", "identical" if same else "DIFFERENT")


def main() -> int:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    reader.add_argument("parts", nargs="*", default=[], help=f"of {', '.join(PARTS)}; default all")
    reader.add_argument("--folder", type=Path, default=Path("build/curation-benchmark"))
    reader.add_argument("--records", type=int, default=12_000)
    reader.add_argument("--rounds", type=int, default=3)
    reader.add_argument("--scale", type=int, nargs="*", default=[100_000, 400_000, 1_000_000])
    reader.add_argument("--data", type=Path, default=Path("../shared/data"), help="of real images")
    reader.add_argument(
        "--peer", type=Path, help="interpreter of a venv with data-juicer, datatrove"
    )
    reader.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    reader.add_argument(
        "--part-count", "--parts", type=int, dest="count", default=1, help=argparse.SUPPRESS
    )
    given = reader.parse_args()
    if given.parts[:1] == ["bare"]:
        bare(Path(given.parts[1]), given.part, given.count)
        return 0
    if given.parts[:1] == ["crowd"]:
        crowd_run(Path(given.parts[1]), given.records)
        return 0
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    about = environment()
    print(f"{about['cpu']}, {os.cpu_count()} cores, {platform.system()}, commit {commit()}")
    print(f"load average {os.getloadavg()[0]:.1f} at the start")
    steps: dict[str, Callable[[], None]] = {
        "speed": lambda: speed(folder, given.records, given.rounds),
        "peer": lambda: peer(folder, min(4000, given.records), given.rounds, given.peer),
        "texts": lambda: texts(given.peer),
        "costs": lambda: costs(jpeg_shards(folder, given.records)),
        "real": lambda: real(given.data, jpeg_shards(folder, given.records)),
        "dicom": lambda: dicom(folder, 300),
        "burned-in": burned_in,
        "again": lambda: again(folder, 100_000),
        "ray": lambda: ray(folder, 0),
        "scale": lambda: scale(folder, given.scale),
    }
    for name in given.parts or PARTS:
        steps[name]()
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

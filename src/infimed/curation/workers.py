"""Shares the work of a curation among threads or processes of this machine.

Threads share memory and start at once; processes scale with the cores, because about a third of the
work (text, rules, tables) holds the interpreter lock. Both only decide *who* measures a chunk, or
compares a group of images: what comes out is the same. A worker that dies or fails ends the run with
an error; finished chunks stay.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

import infimed
from infimed.core.allocator import TUNABLES, VARIABLE
from infimed.core.errors import DataError

WORKER_SETTINGS: Final = {
    VARIABLE: TUNABLES, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip
"""Environment of a worker, where the user's own does not say otherwise. Blocks the size of an image are kept: mapping
each anew took a seventh of the time. There is a process a core: matrix products shared among threads wait for each
other and took two fifths of comparing images."""


WORKER: Final = (
    "from infimed.core.lean import leave_out; leave_out('pandas');"
    "from infimed.curation.worker import run; run()"
)
"""What the interpreter of a worker runs."""


def in_threads(measure: Callable[[int], int], todo: Sequence[int], workers: int) -> Iterator[int]:
    """Call `measure` on every chunk in `workers` threads; yields what it returns, as it comes."""
    waiting: set[Future[int]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="curation") as pool:
        try:
            for chunk in todo:
                if len(waiting) >= 2 * workers:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                waiting.add(pool.submit(measure, chunk))
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Processes:
    """Worker processes of one curation: started when first asked, kept for what else there is to ask.

    Args:
        job: what `infimed.curation.worker` needs: shards, out, key, rubric, chunk_rows.
        workers: how many processes at most.
    """

    def __init__(self, job: Mapping[str, Any], workers: int) -> None:
        self.workers = workers
        self._job = json.dumps(dict(job))
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; those in the middle of something are killed."""
        ending, self._running = self._running, []
        for process in ending:
            _hang_up(process)
        for process in ending:
            _end(process)

    def measure(self, todo: Sequence[int]) -> Iterator[int]:
        """Have every chunk measured and its part written; yields the records of each as it is done.

        Raises:
            DataError: a worker met broken data, or died.
        """
        yield from (answer["records"] for answer in self.ask([{"chunk": c} for c in todo]))

    def ask(self, questions: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Put every question to a process that is free; yields the answers as they come.

        Raises:
            DataError: a worker met broken data, or died.
        """
        pending = deque(questions)
        results: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        while len(self._running) < min(self.workers, len(questions)):
            process = _start()
            self._running.append(process)
            _say(process, self._job)

        def drive(process: subprocess.Popen[str]) -> None:
            try:
                while True:
                    try:
                        question = pending.popleft()
                    except IndexError:
                        return
                    results.put(_ask(process, question))
            except BaseException as error:
                results.put(error)
            finally:
                results.put(None)

        threads = [
            threading.Thread(target=drive, args=(process,), daemon=True)
            for process in self._running[: len(questions)]
        ]
        try:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                result = results.get()
                if result is None:
                    running -= 1
                elif isinstance(result, BaseException):
                    raise result
                else:
                    yield result
        except BaseException:
            pending.clear()
            self.close()
            raise


def _start() -> subprocess.Popen[str]:
    package = str(Path(infimed.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-c", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**WORKER_SETTINGS, **os.environ, "PYTHONPATH": path},
    )


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    except OSError:
        raise _died(process) from None


def _ask(process: subprocess.Popen[str], question: Mapping[str, Any]) -> dict[str, Any]:
    _say(process, json.dumps(dict(question)))
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise _died(process)
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise DataError(**answer["error"])
    return answer


def _died(process: subprocess.Popen[str]) -> DataError:
    code = process.wait()
    return DataError(
        f"a curation process ended unexpectedly (exit code {code})",
        fix="run the same command again, it goes on from its finished chunks; with --workers 1 if"
        " memory was short",
    )


def _hang_up(process: subprocess.Popen[str]) -> None:
    """Close a process's input, which ends it once it is idle."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _end(process: subprocess.Popen[str]) -> None:
    """Wait for a process that was hung up on; kill it when it is in the middle of a chunk."""
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""Shares the chunks of a curation among threads or processes of this machine.

Threads share memory and start at once; processes scale with the cores, because about a third of the
work (text, rules, tables) holds the interpreter lock. Both only decide *who* measures a chunk: its
tables are the same. A worker that dies or fails ends the run with an error; finished chunks stay.
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
from typing import Any

import infimed
from infimed.core.allocator import TUNABLES, VARIABLE
from infimed.core.errors import DataError


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


def in_processes(job: Mapping[str, Any], todo: Sequence[int], workers: int) -> Iterator[int]:
    """Measure every chunk in `workers` processes that write the parts themselves.

    Args:
        job: what `infimed.curation.worker` needs: shards, out, key, rubric, chunk_rows.

    Yields the number of records of each finished chunk.

    Raises:
        DataError: a worker met broken data, or died.
    """
    pending = deque(todo)
    results: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
    processes = [_start() for _ in range(min(workers, len(todo)))]

    def drive(process: subprocess.Popen[str]) -> None:
        try:
            _say(process, json.dumps(dict(job)))
            while True:
                try:
                    chunk = pending.popleft()
                except IndexError:
                    return
                results.put(_ask(process, chunk))
        except BaseException as error:
            results.put(error)
        finally:
            results.put(None)

    threads = [threading.Thread(target=drive, args=(p,), daemon=True) for p in processes]
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
    finally:
        pending.clear()
        for process in processes:
            _end(process)


def _start() -> subprocess.Popen[str]:
    package = str(Path(infimed.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "infimed.curation.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        # Blocks the size of an image are kept: mapping each anew took a seventh of the time.
        env={VARIABLE: TUNABLES, **os.environ, "PYTHONPATH": path},
    )


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    except OSError:
        raise _died(process) from None


def _ask(process: subprocess.Popen[str], chunk: int) -> int:
    _say(process, str(chunk))
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise _died(process)
    answer = json.loads(line)
    if "error" in answer:
        raise DataError(**answer["error"])
    return int(answer["records"])


def _died(process: subprocess.Popen[str]) -> DataError:
    code = process.wait()
    return DataError(
        f"a curation process ended unexpectedly (exit code {code})",
        fix="run the same command again, it goes on from its finished chunks; with --workers 1 if"
        " memory was short",
    )


def _end(process: subprocess.Popen[str]) -> None:
    """Close a process's input, which ends it; kill it when it is in the middle of a chunk."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

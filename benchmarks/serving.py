"""A server under load: throughput alone and together, a flood of connections, and a long soak.

    python benchmarks/serving.py runs/mini --arms throughput flood soak --minutes 30 --json serving.json
    python benchmarks/serving.py runs/mini --arms throughput --other http://127.0.0.1:9000/v1 --other-model m

`infimed serve` runs as a process of its own; every request is a question about one random image, as PNG.

    throughput  the same questions one at a time and `--together` at a time: requests/s, tokens/s, seconds to
                the first token and to the last (p50, p95), and how many answers differ. The server keeps
                nothing from one pass for the next. `--other` asks another
                OpenAI-compatible server the same, such as `transformers serve` on the exported model.
    flood       `--connections` at once where the queue holds 50: statuses, seconds, /health meanwhile, memory.
    soak        `--minutes` of questions, streams, bad requests and clients that leave: memory of the server
                and its decoders over time, and every status.

Nothing is asserted. Figures need a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from infimed.core.console import err, out, table
from infimed.core.run import environment

QUESTIONS = (
    "Which kind of image is this?",
    "Describe the image.",
    "Is there a pleural effusion? Say what you see.",
    "What is abnormal in this image, and on which side?",
)


def picture(seed: int, side: int = 256) -> str:
    """A smooth random image as a data: URL."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def question(number: int, model: str, tokens: int, **more: Any) -> dict[str, Any]:
    """A request about an image of its own."""
    image = {"type": "image_url", "image_url": {"url": picture(number)}}
    text = {"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]}
    turn = {"role": "user", "content": [image, text]}
    return {"model": model, "messages": [turn], "max_tokens": tokens, "temperature": 0, **more}


@dataclass
class Asked:
    """What one request took, seconds; `text` is its answer."""

    status: int
    seconds: float
    first: float = 0.0
    tokens: int = 0
    text: str = ""


@dataclass
class Server:
    """A running `infimed serve`."""

    url: str
    process: subprocess.Popen[str]
    log: Path
    peak: int = 0
    over_time: list[tuple[float, float]] = field(default_factory=list)

    def memory(self) -> int:
        """Resident bytes of the server and its decoders."""
        total = 0
        for line in [str(self.process.pid), *children(self.process.pid)]:
            try:
                pages = int(Path(f"/proc/{line}/statm").read_text().split()[1])
            except (OSError, IndexError):
                continue
            total += pages * 4096
        self.peak = max(self.peak, total)
        return total


def children(pid: int) -> list[str]:
    """Processes that a process started."""
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


@contextmanager
def served(run: Path, dtype: str, settings: dict[str, Any]) -> Iterator[Server]:
    """`infimed serve` on a free port until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "serve.yaml", Path(folder) / "log"
        file.write_text(json.dumps(settings))  # JSON is YAML
        command = [sys.executable, "-m", "infimed.cli.main", "serve", str(run), "--port", "0"]
        command += ["--name", "bench", "--dtype", dtype, "--settings", str(file)]
        with log.open("w") as sink:
            process = subprocess.Popen(command, stderr=sink, stdout=sink, text=True)
        try:
            found = None
            while found is None and process.poll() is None:
                time.sleep(0.1)
                found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
            if found is None:
                raise SystemExit(log.read_text())
            for _ in range(600):
                try:
                    if httpx.get(f"{found[0]}/ready", trust_env=False).status_code == 200:
                        break
                except httpx.HTTPError:
                    time.sleep(0.1)
            yield Server(found[0], process, log)
        finally:
            process.terminate()
            process.wait(60)


async def ask(client: httpx.AsyncClient, url: str, value: dict[str, Any]) -> Asked:
    """One streamed request."""
    began, first, texts, tokens = time.perf_counter(), 0.0, [], 0
    value = {**value, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", f"{url}/chat/completions", json=value) as answer:
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                first = first or time.perf_counter() - began
                for choice in chunk.get("choices", ()):
                    texts.append(choice.get("delta", {}).get("content") or "")
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
            status = answer.status_code
    except httpx.HTTPError:
        status = 0
    return Asked(status, time.perf_counter() - began, first, tokens, "".join(texts))


async def asked_by(url: str, values: Sequence[dict[str, Any]], together: int) -> tuple[float, list[Asked]]:  # fmt: skip
    """All requests, so many at a time; (seconds, what each took)."""
    places = asyncio.Semaphore(together)
    limits = httpx.Limits(max_connections=together)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:

        async def one(value: dict[str, Any]) -> Asked:
            async with places:
                return await ask(client, url, value)

        began = time.perf_counter()
        found = await asyncio.gather(*map(one, values))
        return time.perf_counter() - began, list(found)


def share(values: Sequence[float], part: float) -> float:
    """The value below which this part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def throughput(url: str, model: str, count: int, tokens: int, together: int) -> dict[str, Any]:
    """The same questions one at a time and together, and how many answers differ."""
    asyncio.run(asked_by(url, [question(90_000 + n, model, 4) for n in range(2)], 1))
    made: dict[str, Any] = {}
    values = [question(number, model, tokens) for number in range(count)]
    for name, at_once in (("alone", 1), ("together", together)):
        seconds, found = asyncio.run(asked_by(url, values, at_once))
        answered = [each for each in found if each.status == 200]
        made[name] = {
            "seconds": seconds,
            "requests_per_second": len(answered) / seconds,
            "tokens_per_second": sum(each.tokens for each in answered) / seconds,
            "first_p50": share([each.first for each in answered], 0.5),
            "first_p95": share([each.first for each in answered], 0.95),
            "last_p50": share([each.seconds for each in answered], 0.5),
            "last_p95": share([each.seconds for each in answered], 0.95),
            "statuses": dict(Counter(each.status for each in found)),
            "texts": [each.text for each in found],
        }
    alone, many = made["alone"]["texts"], made["together"]["texts"]
    made["differ"] = sum(a != b for a, b in zip(alone, many, strict=True)) / count
    return made


WATCH = """
import json, sys, threading, time, httpx
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
found = []
with httpx.Client(timeout=60, trust_env=False) as client:
    while not ended.wait(0.02):
        began = time.perf_counter()
        client.get(sys.argv[1])
        found.append(time.perf_counter() - began)
print(json.dumps(found))
"""
"""Asks an address again and again until its stdin ends: a process of its own, so that the load's own delays
do not count."""


async def flooded(server: Server, model: str, connections: int) -> dict[str, Any]:
    """Everyone at once, and /health meanwhile."""
    values = [question(n, model, 8) for n in range(connections)]
    limits = httpx.Limits(max_connections=connections)
    before = server.memory()
    command = [sys.executable, "-c", WATCH, f"{server.url}/health"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as watcher:
        await asyncio.sleep(2)  # its imports
        async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:
            asked = [asyncio.create_task(ask(client, f"{server.url}/v1", v)) for v in values]
            while not all(each.done() for each in asked):
                server.memory()
                await asyncio.sleep(0.05)
        found = [each.result() for each in asked]
        health = json.loads(watcher.communicate()[0])
    refused = [each.seconds for each in found if each.status in (429, 503)]
    return {
        "statuses": dict(Counter(each.status for each in found)),
        "refused_p95": share(refused, 0.95),
        "answered_p95": share([each.seconds for each in found if each.status == 200], 0.95),
        "health_p95": share(health, 0.95),
        "health_worst": max(health),
        "memory_before_mib": before / 2**20,
        "memory_peak_mib": server.peak / 2**20,
        "alive": server.process.poll() is None,
    }


async def soaked(server: Server, model: str, minutes: float, together: int) -> dict[str, Any]:
    """Questions, streams, bad requests and clients that leave, until the time is over."""
    statuses: Counter[str] = Counter()
    began = time.perf_counter()
    end = began + 60 * minutes
    numbers = iter(range(10**9))

    async def worker(client: httpx.AsyncClient, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.perf_counter() < end:
            number = next(numbers)
            value = question(number, model, int(rng.integers(1, 33)))
            kind = int(rng.integers(8))
            url = f"{server.url}/v1/chat/completions"
            try:
                if kind == 0:
                    answer = await client.post(url, json={**value, "tools": []})
                    statuses[f"unknown field {answer.status_code}"] += 1
                elif kind == 1:
                    value["messages"][0]["content"][0]["image_url"]["url"] = "data:image/png;base64,iVBORw0KGgo="  # fmt: skip
                    answer = await client.post(url, json=value)
                    statuses[f"broken image {answer.status_code}"] += 1
                elif kind == 2:
                    await asyncio.wait_for(client.post(url, json={**value, "max_tokens": 256}), 0.2)
                    statuses["stayed 200"] += 1
                else:
                    found = await ask(client, f"{server.url}/v1", value)
                    statuses[f"question {found.status}"] += 1
            except TimeoutError:
                statuses["left"] += 1
            except httpx.HTTPError as error:
                statuses[type(error).__name__] += 1

    async with httpx.AsyncClient(timeout=600, trust_env=False) as client:
        workers = [asyncio.create_task(worker(client, seed)) for seed in range(together)]
        while time.perf_counter() < end:
            await asyncio.sleep(min(10.0, 6 * minutes))
            server.over_time.append((time.perf_counter() - began, server.memory() / 2**20))
        await asyncio.gather(*workers)
    fifth = max(1, len(server.over_time) // 5)
    early = statistics.median(m for _, m in server.over_time[fifth : 2 * fifth] or server.over_time)
    late = statistics.median(m for _, m in server.over_time[-fifth:])
    return {
        "statuses": dict(statuses),
        "memory_mib_over_time": server.over_time,
        "memory_mib_second_fifth": early,
        "memory_mib_last_fifth": late,
        "growth_percent": 100 * (late / early - 1),
        "alive": server.process.poll() is None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder or checkpoint folder")
    parser.add_argument("--arms", nargs="+", choices=["throughput", "flood", "soak"], default=["throughput", "flood", "soak"])  # fmt: skip
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--other", help="base URL of another server that is asked the same")
    parser.add_argument("--other-model", default="other")
    parser.add_argument("--json", type=Path, help="also write everything there")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": environment(), "arguments": {k: str(v) for k, v in vars(arguments).items()}}  # fmt: skip
    if "throughput" in arguments.arms:
        forgetful = {"engine": {"feature_bytes": 0, "prefix_bytes": 0}}
        size = (arguments.questions, arguments.tokens, arguments.together)
        with served(arguments.run, arguments.dtype, forgetful) as server:
            found["throughput"] = throughput(f"{server.url}/v1", "bench", *size)
        if arguments.other:
            found["other"] = throughput(arguments.other, arguments.other_model, *size)
        rows = []
        for name in ("throughput", "other"):
            for arm in ("alone", "together") if name in found else ():
                row = found[name][arm]
                numbers = ("requests_per_second", "tokens_per_second", "first_p50", "first_p95", "last_p50", "last_p95")  # fmt: skip
                rows.append((f"{name} {arm}", *(f"{row[n]:.2f}" for n in numbers)))
        columns = [
            "arm",
            "requests/s",
            "tokens/s",
            "first p50",
            "first p95",
            "last p50",
            "last p95",
        ]
        out.print(table("throughput", columns, rows))
        err.print(f"answers that differ: {100 * found['throughput']['differ']:.1f} %")
    if "flood" in arguments.arms:
        small = {"limits": {"requests": 50, "requests_per_client": 500}}
        with served(arguments.run, arguments.dtype, small) as server:
            found["flood"] = asyncio.run(flooded(server, "bench", arguments.connections))
        out.print_json(json.dumps(found["flood"]))
    if "soak" in arguments.arms:
        with served(arguments.run, arguments.dtype, {}) as server:
            found["soak"] = asyncio.run(soaked(server, "bench", arguments.minutes, arguments.together))  # fmt: skip
        shown = {k: v for k, v in found["soak"].items() if k != "memory_mib_over_time"}
        out.print_json(json.dumps(shown))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

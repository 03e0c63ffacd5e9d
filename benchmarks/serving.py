"""A server under load: throughput alone and together, a flood of connections, and a long soak.

    python benchmarks/serving.py runs/mini --export exported/mini --minutes 30 --json serving.json
    python benchmarks/serving.py runs/mini --arms throughput --other http://127.0.0.1:9000/v1 --other-model m

`infimed serve` runs as a process of its own; every request is a question about one random image, as PNG.

    throughput  the same questions one at a time and `--together` at a time: requests/s, tokens/s, seconds to
                the first token and to the last (p50, p95), and how many answers differ. The server keeps
                nothing from one pass for the next. `--export` names the same model as `infimed export` wrote
                it: `transformers serve` is started on it and asked the same. `--other` asks a server that runs already.
    flood       `--connections` at once where the queue holds 50: statuses, seconds, /health meanwhile, how late the
                server's event loop was, memory.
    soak        `--minutes` of questions, conversations, streams, schemas, uploads, bad requests and clients that leave:
                memory of the server and its decoders over time, its slope, and every status. Caches are so small
                that they are full within minutes: what grows later is a leak.

Nothing is asserted. Figures need a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
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
        command += ["--name", "bench", "--dtype", dtype, "--settings", str(file), "--no-page"]
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


STOCK = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
STOCK_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@contextmanager
def stock_served(export: Path, dtype: str) -> Iterator[str]:
    """`transformers serve` of an exported model on a free port, as its base URL, until the block ends."""
    command = [
        sys.executable,
        "-c",
        STOCK,
        "serve",
        str(export),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    command += ["--device", "cpu", "--dtype", STOCK_TYPES[dtype], "--log-level", "info"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as sink:
            environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
            process = subprocess.Popen(command, stdout=sink, stderr=sink, text=True, env=environ)
        try:
            found = None
            while found is None and process.poll() is None:
                time.sleep(0.1)
                found = re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())
            if found is None:
                raise SystemExit(log.read_text())
            yield f"{found[1]}/v1"
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
                for choice in chunk.get("choices", ()):
                    texts.append(choice.get("delta", {}).get("content") or "")
                if not first and any(
                    texts
                ):  # some servers begin with a piece that holds a role alone
                    first = time.perf_counter() - began
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


def lateness(url: str) -> dict[str, float]:
    """How late the server's event loop was: how often it was looked at, and the share above each bound (seconds)."""
    page = httpx.get(f"{url}/metrics", trust_env=False).text
    found = re.findall(r'infimed_loop_late_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)', page)
    counts = {float(bound): float(count) for bound, count in found}
    total = counts.pop(float("inf"), 0.0)
    above = {f"above_{bound:g}": 1 - count / total for bound, count in counts.items() if total}
    return {"looks": total, **above}


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
        "health_asked": len(health),
        "health_p95": share(health, 0.95),
        "health_p99": share(health, 0.99),
        "health_worst": max(health),
        "loop": lateness(server.url),
        "memory_before_mib": before / 2**20,
        "memory_peak_mib": server.peak / 2**20,
        "alive": server.process.poll() is None,
    }


FULL_SOON = {"engine": {"feature_bytes": 64 << 20, "prefix_bytes": 64 << 20}}
"""Caches that are full within minutes, so that what grows afterwards is none."""


async def soaked(server: Server, model: str, minutes: float, together: int) -> dict[str, Any]:
    """A mix of everything until the time is over."""
    statuses: Counter[str] = Counter()
    began = time.perf_counter()
    end = began + 60 * minutes
    numbers = iter(range(10**9))

    async def worker(client: httpx.AsyncClient, seed: int) -> None:
        rng = np.random.default_rng(seed)
        kinds = list(MIX)
        while time.perf_counter() < end:
            kind = kinds[int(rng.integers(len(kinds)))]
            value = question(next(numbers), model, int(rng.integers(1, 33)))
            try:
                statuses[f"{kind} {await MIX[kind](client, server.url, value)}"] += 1
            except TimeoutError:
                statuses[f"{kind} left"] += 1
            except httpx.HTTPError as error:
                statuses[f"{kind} {type(error).__name__}"] += 1

    async with httpx.AsyncClient(timeout=600, trust_env=False) as client:
        workers = [asyncio.create_task(worker(client, seed)) for seed in range(together)]
        while time.perf_counter() < end:
            await asyncio.sleep(min(10.0, 6 * minutes))
            server.over_time.append((time.perf_counter() - began, server.memory() / 2**20))
        await asyncio.gather(*workers)
    fifth = max(1, len(server.over_time) // 5)
    warm = server.over_time[fifth:] or server.over_time
    early = statistics.median(m for _, m in warm[:fifth])
    late = statistics.median(m for _, m in server.over_time[-fifth:])
    slope = float(np.polyfit(*zip(*warm, strict=True), 1)[0]) if len(warm) > 1 else 0.0
    return {
        "statuses": dict(sorted(statuses.items())),
        "not_intended": {what: count for what, count in statuses.items() if what not in INTENDED},
        "memory_mib_over_time": server.over_time,
        "memory_mib_second_fifth": early,
        "memory_mib_last_fifth": late,
        "growth_percent": 100 * (late / early - 1),
        "slope_mib_per_hour": 3600 * slope,
        "loop": lateness(server.url),
        "alive": server.process.poll() is None,
    }


Client, Value = httpx.AsyncClient, dict[str, Any]


async def _post(client: Client, url: str, value: Value) -> int:
    return (await client.post(f"{url}/v1/chat/completions", json=value)).status_code


async def _stream(client: Client, url: str, value: Value) -> int:
    return (await ask(client, f"{url}/v1", value)).status


async def _unknown(client: Client, url: str, value: Value) -> int:
    return await _post(client, url, {**value, "tools": []})


async def _broken(client: Client, url: str, value: Value) -> int:
    value["messages"][0]["content"][0]["image_url"]["url"] = "data:image/png;base64,iVBORw0KGgo="
    return await _post(client, url, value)


async def _leave(client: Client, url: str, value: Value) -> int:
    return await asyncio.wait_for(_post(client, url, {**value, "max_tokens": 256}), 0.2)


async def _leave_stream(client: Client, url: str, value: Value) -> int:
    value |= {"stream": True, "max_tokens": 256}
    async with client.stream("POST", f"{url}/v1/chat/completions", json=value) as answer:
        async for _ in answer.aiter_lines():
            break
    return answer.status_code


async def _text(client: Client, url: str, value: Value) -> int:
    del value["messages"][0]["content"][0]
    return await _post(client, url, value)


async def _schema(client: Client, url: str, value: Value) -> int:
    form = {"type": "object", "properties": {"seen": {"type": "boolean"}}, "required": ["seen"], "additionalProperties": False}  # fmt: skip
    value["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": form}}
    return await _post(client, url, value)


async def _conversation(client: Client, url: str, value: Value) -> int:
    for _ in range(3):
        answer = await client.post(f"{url}/v1/chat/completions", json=value)
        if answer.status_code != 200:
            break
        said = answer.json()["choices"][0]["message"]["content"] or "-"
        value["messages"] += [{"role": "assistant", "content": said}, {"role": "user", "content": "And else?"}]  # fmt: skip
    return answer.status_code


async def _upload(client: Client, url: str, value: Value) -> int:
    part = value["messages"][0]["content"][0]["image_url"]
    data = base64.b64decode(part["url"].partition(",")[2])
    answer = await client.post(f"{url}/v1/infimed/files", files={"file": ("a.png", data, "image/png")})  # fmt: skip
    if answer.status_code != 200:
        return answer.status_code
    part["url"] = answer.json()["id"]
    status = await _post(client, url, value)
    await client.delete(f"{url}/v1/infimed/files/{part['url']}")
    return status


MIX = {
    "question": _post, "stream": _stream, "text": _text, "conversation": _conversation, "schema": _schema, "upload": _upload,
    "unknown field": _unknown, "broken image": _broken, "leaves": _leave, "leaves a stream": _leave_stream,
}  # fmt: skip
"""What a soak is made of, in equal shares."""
INTENDED = {
    *(f"{kind} 200" for kind in MIX if kind not in ("unknown field", "broken image")),
    "unknown field 400", "broken image 400", "leaves left",
}  # fmt: skip


def show_throughput(found: dict[str, Any]) -> None:
    """The table, the ratios that are promised, and whether all said the same."""
    own = found["throughput"]
    others = [name for name in ("transformers serve", "other") if name in found]
    rows = []
    for name in ("throughput", *others):
        for arm in ("alone", "together"):
            row = found[name][arm]
            numbers = ("requests_per_second", "tokens_per_second", "first_p50", "first_p95", "last_p50", "last_p95")  # fmt: skip
            label = "infimed serve" if name == "throughput" else name
            rows.append((f"{label} {arm}", *(f"{row[n]:.2f}" for n in numbers)))
    columns = ["arm", "requests/s", "tokens/s", "first p50", "first p95", "last p50", "last p95"]
    out.print(table("throughput", columns, rows))
    together = own["together"]["requests_per_second"]
    ratios = found["ratios"] = {"alone": together / own["alone"]["requests_per_second"]}
    err.print(
        f"together / alone: {ratios['alone']:.2f}; answers that differ: {100 * own['differ']:.1f} %"
    )
    for name in others:
        best = max(found[name][arm]["requests_per_second"] for arm in ("alone", "together"))
        ratios[name] = together / best if best else float("nan")
        pairs = zip(own["together"]["texts"], found[name]["alone"]["texts"], strict=True)
        differ = sum(mine.strip() != theirs.strip() for mine, theirs in pairs) / len(
            own["together"]["texts"]
        )
        found[name]["differ_from_ours"] = differ
        err.print(
            f"together / {name}: {ratios[name]:.2f}; answers that differ: {100 * differ:.1f} %"
        )


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
    parser.add_argument(
        "--export", type=Path, help="the same model from `infimed export`, for `transformers serve`"
    )
    parser.add_argument("--other", help="base URL of another server that is asked the same")
    parser.add_argument("--other-model", default="other")
    parser.add_argument("--json", type=Path, help="also write everything there")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": environment(), "arguments": {k: str(v) for k, v in vars(arguments).items()}, "threads": os.environ.get("OMP_NUM_THREADS", "all")}  # fmt: skip
    if "throughput" in arguments.arms:
        forgetful = {"engine": {"feature_bytes": 0, "prefix_bytes": 0}}
        size = (arguments.questions, arguments.tokens, arguments.together)
        with served(arguments.run, arguments.dtype, forgetful) as server:
            found["throughput"] = throughput(f"{server.url}/v1", "bench", *size)
        if arguments.export:
            with stock_served(arguments.export, arguments.dtype) as other:
                found["transformers serve"] = throughput(other, str(arguments.export), *size)
        if arguments.other:
            found["other"] = throughput(arguments.other, arguments.other_model, *size)
        show_throughput(found)
    if "flood" in arguments.arms:
        small = {"limits": {"requests": 50, "requests_per_client": 500}}
        with served(arguments.run, arguments.dtype, small) as server:
            found["flood"] = asyncio.run(flooded(server, "bench", arguments.connections))
        out.print_json(json.dumps(found["flood"]))
    if "soak" in arguments.arms:
        with served(arguments.run, arguments.dtype, FULL_SOON) as server:
            found["soak"] = asyncio.run(soaked(server, "bench", arguments.minutes, arguments.together))  # fmt: skip
        shown = {k: v for k, v in found["soak"].items() if k != "memory_mib_over_time"}
        out.print_json(json.dumps(shown))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""An `Inspection` as a picture (PNG) or one self-contained HTML page."""

from __future__ import annotations

import base64
import io
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from infimed.core.files import atomic_open, write_text
from infimed.data.inspecting import Inspection, percentiles

BLUE, RED, GREY = "#2c6fbb", "#b5452c", "#6b7280"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data inspection: {{ found.path.name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e5e7eb; vertical-align: top; overflow-wrap: anywhere; }
th { background: #f3f4f6; } img { max-width: 100%; } .dim { color: #6b7280; }
code { background: #f3f4f6; padding: 0 .25rem; }
</style></head><body>
<h1>{{ found.path.name }}</h1>
<p class="dim">Read as <code>{{ found.reader }}</code>: {{ found.records }} records, {{ found.images }} images,
{{ found.groups }} groups, {{ found.problem_count }} problems.</p>
<img alt="Counts, image sizes, text lengths and examples" src="data:image/png;base64,{{ picture }}">
<h2>Numbers</h2>
<table>{% for name, value in numbers %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
<h2>Problems</h2>
{% if found.problems %}
<p class="dim">{{ found.problem_count }} in all{% if found.problem_count > found.problems|length %}, the first {{ found.problems|length }} below{% endif %}.
By reason: {% for code, count in found.codes.most_common() %}{{ code }} {{ count }}{{ "" if loop.last else ", " }}{% endfor %}.</p>
<table><tr><th>Where</th><th>What</th><th>What to do</th></tr>
{% for problem in found.problems %}<tr><td>{{ problem.where }}</td><td>{{ problem.what }}</td><td>{{ problem.fix }}</td></tr>
{% endfor %}</table>
{% else %}<p>None.</p>{% endif %}
</body></html>
"""


def numbers(found: Inspection) -> list[tuple[str, str]]:
    """The figures of an inspection as (name, text) pairs, for the terminal and the page."""
    widths, heights = Counter[int](), Counter[int]()
    for (width, height), count in found.sizes.items():
        widths[width] += count
        heights[height] += count
    rows = [
        ("records", f"{found.records:,}"),
        ("records without text", f"{found.without_text:,}"),
        ("groups (patients, cases)", f"{found.groups:,}"),
        ("distinct images", f"{found.images:,}"),
        ("unreadable images", f"{found.unreadable:,}"),
        ("tasks", _counted(found.tasks)),
        ("splits", _counted(found.splits)),
        ("modalities (records)", _counted(found.modalities)),
        ("stored formats", _counted(found.formats)),
        ("sources", _counted(found.sources)),
        ("licences", _counted(found.licenses)),
    ]
    if found.sizes:
        low, mid, high, top = percentiles(widths)
        rows.append(("image width, px", f"5 % {low}, median {mid}, 95 % {high}, largest {top}"))
        low, mid, high, top = percentiles(heights)
        rows.append(("image height, px", f"5 % {low}, median {mid}, 95 % {high}, largest {top}"))
    if found.words:
        low, mid, high, top = percentiles(found.words)
        rows.append(("words a record", f"5 % {low}, median {mid}, 95 % {high}, longest {top}"))
    return rows


def write_png(found: Inspection, path: Path) -> None:
    """Draw the inspection to a PNG file."""
    with atomic_open(path) as handle:
        handle.write(picture(found))


def write_html(found: Inspection, path: Path) -> None:
    """Write the inspection as one HTML file without outside references."""
    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    encoded = base64.b64encode(picture(found)).decode("ascii")
    write_text(path, template.render(found=found, numbers=numbers(found), picture=encoded))


def picture(found: Inspection) -> bytes:
    """The drawing as PNG bytes: counts, image sizes, text lengths, problems, examples."""
    from matplotlib.figure import Figure

    example_rows = -(-len(found.thumbnails) // 8)
    figure = Figure(figsize=(12, 6.4 + 1.55 * example_rows), dpi=110, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(6.4, max(0.01, 1.55 * example_rows)))
    top, bottom = parts
    axes = top.subplots(2, 3)
    _bars(axes[0, 0], "records by task", found.tasks, BLUE)
    _bars(axes[0, 1], "records by split", found.splits, BLUE)
    _bars(axes[0, 2], "records by modality", found.modalities, BLUE)
    _sizes(axes[1, 0], found)
    _words(axes[1, 1], found)
    _bars(axes[1, 2], "problems by reason", found.codes, RED)
    if example_rows:
        grid = np.atleast_2d(bottom.subplots(example_rows, 8))
        for position, axis in enumerate(grid.flat):
            axis.axis("off")
            if position < len(found.thumbnails):
                name, pixels = found.thumbnails[position]
                axis.imshow(pixels, interpolation="nearest")
                label = name.rsplit("/", 1)[-1]
                axis.set_title(
                    label if len(label) <= 20 else label[:9] + "…" + label[-9:], fontsize=7
                )
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _bars(axis: Any, title: str, counts: Counter[str], colour: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    rows = counts.most_common(8)
    if not rows:
        axis.text(0.5, 0.5, "none", ha="center", va="center", color=GREY, transform=axis.transAxes)
        axis.set_axis_off()
        return
    labels = [name if len(name) <= 18 else name[:17] + "…" for name, _ in rows]
    bars = axis.barh(range(len(rows)), [count for _, count in rows], color=colour, height=0.6)
    axis.bar_label(bars, labels=[f"{count:,}" for _, count in rows], padding=3, fontsize=8)
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.set_ylim(max(3.5, len(rows) - 0.5), -0.5)
    axis.margins(x=0.18)
    axis.xaxis.set_visible(False)
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def _sizes(axis: Any, found: Inspection) -> None:
    axis.set_title("image sizes, px (area: images)", fontsize=10, loc="left")
    if not found.sizes:
        axis.text(0.5, 0.5, "none", ha="center", va="center", color=GREY, transform=axis.transAxes)
        axis.set_axis_off()
        return
    sizes = sorted(found.sizes)
    area = np.sqrt([found.sizes[size] for size in sizes])
    axis.scatter(
        [width for width, _ in sizes],
        [height for _, height in sizes],
        s=16 + 300 * area / max(area.max(), 10),
        color=BLUE,
        alpha=0.45,
        linewidths=0,
    )
    axis.set_xlabel("width", fontsize=8)
    axis.set_ylabel("height", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.margins(0.15)
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)


def _words(axis: Any, found: Inspection) -> None:
    axis.set_title("words a record", fontsize=10, loc="left")
    if not found.words:
        axis.set_axis_off()
        return
    values, counts = (
        np.array(sorted(found.words)),
        np.array([found.words[v] for v in sorted(found.words)]),
    )
    most = max(percentiles(found.words, (0.99,))[0], 5)
    bins = np.linspace(0, most, min(40, most) + 1)
    axis.hist(np.minimum(values, most), bins=bins, weights=counts, color=BLUE)
    beyond = int(counts[values > most].sum())
    axis.set_xlabel(
        f"words; {beyond:,} longer ones in the last bar" if beyond else "words", fontsize=8
    )
    axis.set_ylabel("records", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _counted(counts: Counter[str], most: int = 8) -> str:
    """ "closed 976, open 708" """
    shown = [f"{name or '(none)'} {count:,}" for name, count in counts.most_common(most)]
    rest = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "") or "none"

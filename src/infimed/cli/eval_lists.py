"""What `infimed eval` lists: tasks, metrics, baselines. Fast: imports no torch."""

from __future__ import annotations


def list_tasks(markdown: bool) -> None:
    from infimed.core.console import out, table
    from infimed.evaluation.catalogue import facts, lines
    from infimed.evaluation.catalogue import markdown as page
    from infimed.evaluation.groups import groups

    if markdown:
        out.out(page(), end="", highlight=False)
        return
    rows = [[line.name, f"{line.title}\n{facts(line)}"] for line in lines()]
    shown = table(
        "tasks: kinds; modality; size; licence; access; languages", ["name", "what"], rows, 2
    )
    shown.columns[0].no_wrap = True  # a name cut short cannot be typed
    out.print(shown)
    members = [[name, ", ".join(names)] for name, names in groups().items()]
    out.print(table("groups", ["name", "tasks"], members, numeric=2))


def list_metrics() -> None:
    from infimed.core.console import out, table
    from infimed.evaluation.metrics.registry import METRICS

    rows = [
        [
            name,
            metric.title,
            f"{metric.direction}, {metric.best:g}",
            metric.domain,
            metric.extra or "-",
        ]
        for name, metric in METRICS.items()
    ]
    shown = table("metrics", ["name", "what", "better, best", "domain", "needs"], rows, numeric=5)
    shown.columns[0].no_wrap = True
    out.print(shown)


def list_models(markdown: bool) -> None:
    from infimed.core.console import out, table
    from infimed.evaluation import baseline

    if markdown:
        out.out(baseline.markdown(), end="", highlight=False)
        return
    rows = [
        [name, "{}\n{}".format(title, "; ".join(rest))] for name, title, *rest in baseline.rows()
    ]
    heads = f"baselines: {'; '.join(baseline.HEADS[2:])}"
    shown = table(heads, ["name", "what"], rows, numeric=2)
    shown.columns[0].no_wrap = True
    out.print(shown)

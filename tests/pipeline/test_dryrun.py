"""The plan that is shown against the plan that is made."""

from __future__ import annotations

from infimed.core.recipe import load_recipe
from infimed.core.run import RunFolder
from infimed.pipeline.dryrun import estimate
from infimed.pipeline.planning import plan_jobs
from infimed.pipeline.run import import_step, prepare


def test_rows_of_a_generated_clinic_are_foreseen_within_a_tenth(tmp_path) -> None:
    recipe = load_recipe(
        "nano", ["data.phantom.patients=200", "curation.enabled=false", "data.splits={train: 1.0}"]
    )
    run = RunFolder(tmp_path / "run")
    run.adopt(recipe)
    import_step(recipe, run)
    made = {
        job.stage.name: len(job.plan.rows)
        for job in plan_jobs(prepare(recipe, run).indexes(blind=False), recipe)
    }
    foreseen = {stage.stage: stage.rows for stage in estimate(recipe)}
    assert foreseen.keys() == made.keys()
    for name, rows in made.items():
        # Few patients decide which modalities there are many of: stages of one modality differ most.
        room = 0.35 if name == "pretrain-start" else 0.1
        assert abs(foreseen[name] - rows) <= max(2, room * rows), (name, foreseen[name], rows)

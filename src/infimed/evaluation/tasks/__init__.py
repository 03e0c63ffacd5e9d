"""The tasks: one YAML file each. See `infimed.evaluation.spec` for what a file may say."""

from infimed.evaluation.spec import TaskSpec, load_task, task_names

__all__ = ["TaskSpec", "load_task", "task_names"]

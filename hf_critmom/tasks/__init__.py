"""Tasks: data and models that comparisons run on."""

from hf_critmom.tasks.arguments import DataArguments, ModelArguments
from hf_critmom.tasks.models import build_model, check_model, trained_model
from hf_critmom.tasks.registry import TASKS, load_task, task_name, task_spec
from hf_critmom.tasks.resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_critmom.tasks.task import Task, TaskError

__all__ = [
    "TASKS",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "DataArguments",
    "ModelArguments",
    "Task",
    "TaskError",
    "build_model",
    "check_model",
    "load_task",
    "task_name",
    "task_spec",
    "trained_model",
]

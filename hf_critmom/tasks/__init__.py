"""Tasks: data and models that comparisons run on."""

from hf_critmom.tasks.arguments import DataArguments, ModelArguments
from hf_critmom.tasks.corruptions import CORRUPTIONS, corrupt, parse_corruption
from hf_critmom.tasks.models import build_model, check_model, load_checkpoint
from hf_critmom.tasks.registry import TASKS, load_task, task_name, task_spec
from hf_critmom.tasks.resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_critmom.tasks.task import Task, TaskError

__all__ = [
    "CORRUPTIONS",
    "TASKS",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "DataArguments",
    "ModelArguments",
    "Task",
    "TaskError",
    "build_model",
    "check_model",
    "corrupt",
    "load_checkpoint",
    "load_task",
    "parse_corruption",
    "task_name",
    "task_spec",
]

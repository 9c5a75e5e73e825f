"""Tasks: data and models that comparisons run on."""

from hf_critmom.tasks.arguments import DataArguments, ModelArguments
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.image_task import ImageTask
from hf_critmom.tasks.models import MODELS, build_model, check_model, model_record
from hf_critmom.tasks.registry import TASKS, flag_defaults, load_task, task_name, task_spec
from hf_critmom.tasks.resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_critmom.tasks.task import Task
from hf_critmom.tasks.text_task import TextTask

__all__ = [
    "MODELS",
    "TASKS",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "DataArguments",
    "ImageTask",
    "ModelArguments",
    "Task",
    "TaskError",
    "TextTask",
    "build_model",
    "check_model",
    "flag_defaults",
    "load_task",
    "model_record",
    "task_name",
    "task_spec",
]

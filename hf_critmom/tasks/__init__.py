"""Tasks: data and models that comparisons run on."""

from hf_critmom.tasks.arguments import CheckpointArguments, DataArguments, ModelArguments
from hf_critmom.tasks.checkpoints import load_checkpoint, load_task_of
from hf_critmom.tasks.corruptions import CORRUPTIONS, corrupt, parse_corruption
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.image_task import ImageTask
from hf_critmom.tasks.models import MODELS, build_model, check_model, completed_record, model_record
from hf_critmom.tasks.registry import TASKS, flag_defaults, load_task, task_name, task_spec
from hf_critmom.tasks.resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_critmom.tasks.task import Task
from hf_critmom.tasks.text_task import TextTask

__all__ = [
    "CORRUPTIONS",
    "MODELS",
    "TASKS",
    "CheckpointArguments",
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
    "completed_record",
    "corrupt",
    "flag_defaults",
    "load_checkpoint",
    "load_task",
    "load_task_of",
    "model_record",
    "parse_corruption",
    "task_name",
    "task_spec",
]

"""Pushing a comparison to the Hub: its card, figures and results, the model of one of its runs, and its page."""

from hf_critmom.hub.errors import HubError
from hf_critmom.hub.model_choice import ChosenRun, choose_run, finished_runs
from hf_critmom.hub.push import Hub, Pushed, push_comparison, push_upload, sign_in
from hf_critmom.hub.repository import REPO_TYPES, Repository
from hf_critmom.hub.session import RETRY_WAITS
from hf_critmom.hub.upload import PushOptions, Upload, prepare_upload

__all__ = [
    "REPO_TYPES",
    "RETRY_WAITS",
    "ChosenRun",
    "Hub",
    "HubError",
    "PushOptions",
    "Pushed",
    "Repository",
    "Upload",
    "choose_run",
    "finished_runs",
    "prepare_upload",
    "push_comparison",
    "push_upload",
    "sign_in",
]

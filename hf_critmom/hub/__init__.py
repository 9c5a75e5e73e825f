"""Pushing a comparison to the Hub: its card, figures and results, and the model of one of its runs."""

from hf_critmom.hub.choice import ChosenRun, choose_run, finished_runs
from hf_critmom.hub.push import COMMIT_WAITS, Hub, Pushed, push_comparison, push_upload, sign_in
from hf_critmom.hub.refusals import HubError
from hf_critmom.hub.repository import REPO_TYPES, Repository
from hf_critmom.hub.upload import Upload, prepare_upload

__all__ = [
    "COMMIT_WAITS",
    "REPO_TYPES",
    "ChosenRun",
    "Hub",
    "HubError",
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

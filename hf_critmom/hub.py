"""Pushing a comparison to the Hub: its card, figures and results, and the model of one of its runs, in one commit."""

import fnmatch
import importlib.metadata
import json
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    DatasetCard,
    DatasetCardData,
    EvalResultEntry,
    HfApi,
    ModelCard,
    eval_result_entries_to_yaml,
    get_token,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    OIDCError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id, yaml_dump
from jinja2 import Environment, PackageLoader, StrictUndefined
from transformers.utils import logging

from hf_critmom.comparison import ComparisonError, write_report
from hf_critmom.comparison.plan import PLAN_FILE, Plan
from hf_critmom.comparison.results import RESULT_FILE, RESULTS_FILE, read_runs, run_folder
from hf_critmom.errors import InputError, reason

logger = logging.get_logger(__name__)

REPO_TYPES = {"model": "model", "dataset": "data set"}
"""Kinds of repositories that take a comparison, and what they are called in sentences."""

MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""What `save_pretrained` writes of models and processors: no optimizer states, arguments or other pickles."""

COMMIT_WAITS = (1.0, 4.0, 16.0)
"""Seconds before each further attempt of a commit that was answered neither with yes nor with no."""

_CARD = "README.md"
_EVALUATIONS_FOLDER = ".eval_results"
_NOT_OF_A_MODEL = (RESULT_FILE, "trainer_state.json", "*_results.json", ".*")
_TRANSIENT = {408, 412, 429, 500, 502, 503, 504}  # 412: somebody else's commit came between


class HubError(InputError):
    """A push that cannot be made as it was asked for, or that the Hub did not take."""


@dataclass(frozen=True)
class Repository:
    """Where a comparison goes.

    Attributes:
        repo_id: Name, with its namespace.
        repo_type: A key of `REPO_TYPES`.
        revision: Branch; None: the main one.
    """

    repo_id: str
    repo_type: str = "model"
    revision: str | None = None

    def __str__(self) -> str:
        branch = f" (revision {self.revision})" if self.revision else ""
        return f"the {REPO_TYPES[self.repo_type]} repository {self.repo_id}{branch}"

    @property
    def address(self) -> dict[str, Any]:
        """How huggingface_hub's functions are told which repository is meant."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}


@dataclass(frozen=True)
class ChosenRun:
    """The run whose model is pushed.

    Attributes:
        folder: Its folder.
        result: Its result.
        reason: Why it was chosen, as a clause.
    """

    folder: Path
    result: Mapping[str, Any]
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.result['arm']}, seed {self.result['seed']}"

    def model_files(self) -> list[Path]:
        """Files from which ``from_pretrained`` loads its model and processor; empty if there is no model."""
        files = [path for path in sorted(self.folder.glob("*")) if path.is_file() and _is_of_a_model(path.name)]
        names = [path.name for path in files]
        return files if "config.json" in names and fnmatch.filter(names, "*.safetensors") else []


@dataclass(frozen=True)
class Upload:
    """What a push brings.

    Attributes:
        repository: Where it goes.
        files: Contents, or the files that hold them, by path in the repository.
        message: Summary of the commit.
        notes: Sentences that whoever pushes should read.
    """

    repository: Repository
    files: dict[str, bytes | Path]
    message: str
    notes: list[str] = field(default_factory=list)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file by path in the repository."""
        return {
            path: len(content) if isinstance(content, bytes) else content.stat().st_size
            for path, content in self.files.items()
        }


@dataclass(frozen=True)
class Pushed:
    """What came of a push.

    Attributes:
        url: Page of the commit that holds the files.
        changed: Whether there was anything new to commit.
        notes: Sentences that whoever pushed should read.
    """

    url: str
    changed: bool
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Hub:
    """A Hub to which somebody has signed in.

    Attributes:
        api: The client, with the token.
        user: Name of the user.
    """

    api: HfApi
    user: str


# ------------------------------------------------------------------------------------------------------- what is pushed


def finished_runs(folder: Path, plan: Plan) -> dict[Path, dict[str, Any]]:
    """Results of a comparison's finished runs by their folders, in the plan's order."""
    return {run_folder(folder, run["arm"], run["seed"]): run for run in read_runs(folder, plan)}


def choose_run(
    plan: Plan, runs: Mapping[Path, Mapping[str, Any]], *, arm: str | None = None, seed: int | None = None
) -> ChosenRun | None:
    """The run whose model stands for a comparison: the best on validation of those that the arm and seed leave.

    What counts is the metric of the last evaluation on the validation split; the test split has no part. Of equals the
    first is taken. A run that diverged is never chosen.

    Args:
        plan: The comparison's plan.
        runs: Results by run folder.
        arm: Only this arm's runs.
        seed: Only this seed's runs.

    Returns:
        The run; None if every run diverged and neither arm nor seed was given.

    Raises:
        HubError: If the arm or seed is not the comparison's, or every run of theirs diverged or is unfinished.
    """
    given = {name: value for name, value in (("arm", arm), ("seed", seed)) if value is not None}
    for name, planned in (("arm", plan.arms), ("seed", plan.seeds)):
        known = dict.fromkeys([*planned, *(result[name] for result in runs.values())])
        if name in given and given[name] not in known:
            raise HubError(
                f"The comparison has no {name} {given[name]}: choose --{name} among {', '.join(map(str, known))}."
            )
    of_them = f" of {' and '.join(f'{name} {value}' for name, value in given.items())}" if given else ""
    metric, better = plan.task["metric"], 1.0 if plan.task.get("greater_is_better", True) else -1.0
    values = {
        run: float(result["evaluations"][-1][metric])
        for run, result in runs.items()
        if result["status"] == "finished"
        and result["evaluations"]
        and all(result[name] == value for name, value in given.items())
    }
    if not values:
        if given:
            raise HubError(f"No run{of_them} finished without diverging: choose another with --arm and --seed.")
        return None
    best = max(values, key=lambda run: better * values[run])
    among = "the only finished run" if len(values) == 1 else f"the best of {len(values)} finished runs"
    return ChosenRun(best, runs[best], f"{among}{of_them} by final validation {metric}, {values[best]:.4f}")


def prepare_upload(
    folder: Path,
    repository: Repository,
    *,
    arm: str | None = None,
    seed: int | None = None,
    dataset_id: str | None = None,
    task_id: str = "default",
    message: str | None = None,
) -> Upload:
    """Collects what a push of a comparison brings; needs no network and leaves the comparison's folder as it is.

    The report is built anew from plan and results, so it says how far the comparison is at this moment. A model
    repository also gets the model of one run at its top level, for ``from_pretrained``, and that run's test result in
    ``.eval_results/``; a data set repository gets a card by which ``load_dataset`` reads the table of results.

    Args:
        folder: A comparison's folder, finished or not.
        repository: Where it is to go.
        arm: Choose the model among this arm's runs.
        seed: Choose the model among this seed's runs.
        dataset_id: Data set of the Hub that the test result is on; default: the one that was compared on.
        task_id: Its task there.
        message: Summary of the commit; default: what was compared.

    Raises:
        HubError: If the run asked for does not exist or has no model, or the card is not valid.
        ComparisonError: If the folder holds no comparison, or no run of it has finished.
    """
    plan = Plan.read(folder)
    runs, asked = finished_runs(folder, plan), len(plan.arms) * len(plan.seeds)
    if not runs:
        raise ComparisonError(f"No run of the comparison in {folder} has finished: repeat its command, {plan.command}.")
    report, notes = _report(folder), []
    files: dict[str, bytes | Path] = dict(report)
    if len(runs) < asked:
        notes.append(f"Unfinished: {len(runs)} of {asked} runs; the card says so.")
    if repository.repo_type == "dataset":
        for flag, value in (("arm", arm), ("seed", seed), ("dataset_id", dataset_id)):
            if value is not None:
                raise HubError(f"--{flag} is about the model, and a data set repository gets none: leave it out.")
        card = _dataset_card(report[_CARD].decode(), repository)
    else:
        chosen = choose_run(plan, runs, arm=arm, seed=seed)
        model, why = _model_of(chosen, runs, explicit=(arm, seed) != (None, None))
        files |= {file.name: file for file in model}
        notes.append(f"{'Model' if model else 'No model'}: {why}.")
        run = chosen.result if chosen and model else None
        card = _model_card(report[_CARD].decode(), repository, run, plan.task["metric"], why)
        if chosen is not None:
            path, entry = _evaluation(chosen, plan, folder, repository, dataset_id, task_id)
            files[path] = yaml_dump(eval_result_entries_to_yaml([entry]), sort_keys=False).encode()
            if not _is_repo_id(dataset_id or plan.task["source"]):
                notes.append(
                    f"The data ({plan.task['source']}) is not from the Hub: {path} calls it {entry.dataset_id!r}, "
                    "which no leaderboard shows; if the Hub has it, name it with --dataset_id."
                )
    _check(card, repository)
    files[_CARD] = card.encode()
    summary = f"Comparison of {', '.join(plan.arms)} on {plan.task['name']}, {len(runs)} of {asked} runs"
    return Upload(repository, dict(sorted(files.items())), message or summary, notes)


def _report(folder: Path) -> dict[str, bytes]:
    """Plan, results and the report made of them, by path."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        for file in (folder / PLAN_FILE, *folder.glob(f"runs/**/{RESULT_FILE}")):
            target = copy / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        try:
            write_report(copy)
        except ComparisonError as error:
            raise ComparisonError(str(error).replace(str(copy), str(folder))) from None
        paths = [file.relative_to(copy) for file in copy.rglob("*") if file.is_file()]
        shown = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
        return {path.as_posix(): (copy / path).read_bytes() for path in shown}


def _model_of(
    chosen: ChosenRun | None, runs: Mapping[Path, Mapping[str, Any]], *, explicit: bool
) -> tuple[list[Path], str]:
    """Files of the chosen run's model, and why it is this one, or none."""
    if chosen is None:
        return [], "every run diverged"
    if files := chosen.model_files():
        return files, f"{chosen}, {chosen.reason}"
    others = [run for other in runs.items() if (run := ChosenRun(*other)).model_files()]
    remedy = f"--arm and --seed choose another, such as {others[0]}" if others else ""
    if explicit:
        raise HubError(f"{chosen.folder} holds no model: {remedy or 'leave --arm and --seed out to push none'}.")
    return [], f"the weights of {chosen}, {chosen.reason}, were not kept" + (f"; {remedy}" if remedy else "")


def _is_of_a_model(name: str) -> bool:
    wanted, unwanted = (
        any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for patterns in (MODEL_FILES, _NOT_OF_A_MODEL)
    )
    return wanted and not unwanted


# ---------------------------------------------------------------------------------------------------------------- cards


def _model_card(card: str, repository: Repository, run: Mapping[str, Any] | None, metric: str, why: str) -> str:
    """The report as the card of a model repository; without a model it promises none."""
    pushed = ModelCard(card)
    if run is None:
        for promise in ("library_name", "pipeline_tag"):
            pushed.data.pop(promise)
    pushed.text = _with_section(pushed.text, "model.md.jinja", repository, run=run, metric=metric, why=why)
    return str(pushed)


def _dataset_card(card: str, repository: Repository) -> str:
    """The report as the card of a data set repository, whose only configuration is the table of results."""
    report = ModelCard(card)
    data = DatasetCardData(
        license=report.data.get("license"),
        pretty_name=report.data.get("model_name"),
        tags=report.data.get("tags"),
        task_categories=[report.data.get("pipeline_tag")],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": RESULTS_FILE}]}],
    )
    return f"---\n{data.to_yaml()}\n---\n{_with_section(report.text, 'dataset.md.jinja', repository)}"


def _with_section(text: str, template: str, repository: Repository, **values: Any) -> str:
    """A card's text with a section from a template before its first one."""
    environment = Environment(
        loader=PackageLoader("hf_critmom"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    section = environment.get_template(template).render(repository=repository, **values)
    heading = re.search(r"^## ", text, re.MULTILINE)
    position = heading.start() if heading else len(text)
    return f"{text[:position]}{section.strip()}\n\n{text[position:]}"


def _evaluation(
    chosen: ChosenRun, plan: Plan, folder: Path, repository: Repository, dataset_id: str | None, task_id: str
) -> tuple[str, EvalResultEntry]:
    """The chosen run's test result as an entry of ``.eval_results/*.yaml``, and that file's path.

    Documented (huggingface/hub-docs, docs/hub/eval-results.md; `huggingface_hub.EvalResultEntry`): each file is a list
    of entries. An entry needs ``dataset.id``, a data set of the Hub that is registered as a benchmark,
    ``dataset.task_id``, a task of its ``eval.yaml``, and ``value``; ``source`` is where the value comes from, and
    ``date`` defaults to the commit's.

    Our choices, for data that is no benchmark: data from outside the Hub goes by the name that ``model-index`` gives
    it, and the task is "default", as in the documentation's example.
    """
    source, metric = plan.task["source"], plan.task["metric"]
    if dataset_id is not None and not _is_repo_id(dataset_id):
        raise HubError(f"--dataset_id {dataset_id!r} names no data set of the Hub: write it as NAMESPACE/NAME.")
    record = (chosen.folder.relative_to(folder) / RESULT_FILE).as_posix()
    entry = EvalResultEntry(
        dataset_id=dataset_id or (source if _is_repo_id(source) else plan.task["name"]),
        task_id=task_id,
        value=chosen.result["test"][metric],
        source_url=f"{HfApi().endpoint}/{repository.repo_id}/blob/{repository.revision or 'main'}/{record}",
        source_name="Record of the run",
        notes=f"{metric} on the test split of {source}; {chosen}, {chosen.reason}",
    )
    return f"{_EVALUATIONS_FOLDER}/{re.sub('[^A-Za-z0-9._-]+', '-', plan.task['name'])}.yaml", entry


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _check(card: str, repository: Repository) -> None:
    """Reads a card back as huggingface_hub does, before anything is sent."""
    try:
        (DatasetCard if repository.repo_type == "dataset" else ModelCard)(card)
    except ValueError as error:
        raise HubError(f"The card would not be valid ({reason(error)}): please report what was compared.") from error


# -------------------------------------------------------------------------------------------------------------- pushing


def push_comparison(
    folder: Path,
    repository: Repository,
    *,
    private: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    **choices: Any,
) -> tuple[Upload, Pushed | None]:
    """Pushes a comparison to the Hub that huggingface_hub is set to (``HF_ENDPOINT``).

    Args:
        folder: A comparison's folder, finished or not; it is only read.
        repository: Where to; a name without a namespace is taken into that of the token's user.
        private: Create the repository as a private one.
        dry_run: Only prepare and check what would be pushed, without network.
        token: An access token; default: the one of this machine, from ``HF_TOKEN`` or ``hf auth login``.
        choices: What else `prepare_upload` takes.

    Returns:
        What is brought, and what came of it (None of a dry run).

    Raises:
        HubError: If something asked for is not there, or the Hub cannot be reached, refuses or fails.
        ComparisonError: If the folder holds no comparison, or no run of it has finished.
    """
    if not _is_repo_id(repository.repo_id):
        raise HubError(
            f"{repository.repo_id!r} cannot name a repository: write NAMESPACE/NAME, each of letters, digits, '-', "
            "'_' and '.', 96 characters at most."
        )
    Plan.read(folder)  # before anybody is asked for a token
    if dry_run:
        return prepare_upload(folder, repository, **choices), None
    hub = sign_in(token)
    if "/" not in repository.repo_id:
        repository = Repository(f"{hub.user}/{repository.repo_id}", repository.repo_type, repository.revision)
    upload = prepare_upload(folder, repository, **choices)
    return upload, push_upload(hub, upload, private=private)


def sign_in(token: str | None = None) -> Hub:
    """Finds the token, and asks the Hub whose it is.

    Raises:
        HubError: If there is no token, the Hub does not know it, or cannot be reached.
    """
    try:
        found = (token or get_token() or "").strip()
    except OIDCError as error:
        raise HubError(f"No token was exchanged ({reason(error)}): unset HF_OIDC_RESOURCE or give --token.") from error
    version = importlib.metadata.version("hf-critmom")
    api = HfApi(token=found, library_name="hf-critmom", library_version=version)
    if not found:
        raise HubError(f"There is no token for {api.endpoint}: run hf auth login, set HF_TOKEN or give --token.")
    if not re.fullmatch("[!-~]+", found):
        raise HubError("The token has characters that no token has: copy it anew from the settings of your account.")
    with _in_words(api):
        return Hub(api, str(api.whoami()["name"]))


def push_upload(hub: Hub, upload: Upload, *, private: bool = False) -> Pushed:
    """Brings files to a repository, which is created if need be, in one commit: all of them arrive, or none.

    What the repository has already is not uploaded again, and if that is all, nothing is committed.

    Raises:
        HubError: If the Hub cannot be reached, refuses or fails.
    """
    api, repository = hub.api, upload.repository
    with _in_words(api, hub.user, repository):
        before = _settled(api, repository, private=private)
        commit = _commit(api, upload)
    stored = [sibling.rfilename for sibling in getattr(before, "siblings", None) or ()]
    notes = [
        f"{repository.repo_id} also holds {path}, which is not of this push: delete it if nobody needs it."
        for path in stored
        if re.fullmatch(r"[^/]*\.safetensors", path) and path not in upload.files
    ]
    return Pushed(commit.commit_url, before is None or commit.oid != before.sha, notes)


def _settled(api: HfApi, repository: Repository, *, private: bool) -> Any:
    """Creates repository and branch where they are missing; what the Hub knew of them before, None if nothing."""
    found = _info(api, repository)
    if found is None:
        try:
            api.create_repo(**repository.address, private=private or None)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # it is there, unless another type has taken the name
                raise
            for other in REPO_TYPES.keys() - {repository.repo_type}:
                if _info(api, Repository(repository.repo_id, other)) is not None:
                    raise HubError(
                        f"{repository.repo_id} is a {REPO_TYPES[other]} repository: give --repo_type {other}, or "
                        "choose another REPO_ID."
                    ) from error
    elif private and found.private is False:
        raise HubError(
            f"{repository.repo_id} exists and is public, which --private does not change: make it private in its "
            "settings, choose another REPO_ID, or leave --private out."
        )
    if repository.revision is not None:
        try:
            return api.repo_info(**repository.address, revision=repository.revision)
        except RevisionNotFoundError:
            api.create_branch(**repository.address, branch=repository.revision, exist_ok=True)
            return None
    return found


def _info(api: HfApi, repository: Repository) -> Any:
    """What the Hub knows of a repository; None if there is none that the token may see."""
    try:
        return api.repo_info(**repository.address)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 404):
            return None
        raise


def _commit(api: HfApi, upload: Upload) -> CommitInfo:
    """Commits everything at once, again and again while the commit is not answered with yes or no.

    The client repeats its other requests by itself. Every attempt asks anew what the repository has, so a commit that
    was made although its answer was lost is not made twice.
    """
    waits = iter(COMMIT_WAITS)
    while True:
        try:
            with warnings.catch_warnings():
                # Tables of results are meant to be there.
                warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
                return api.create_commit(
                    operations=[CommitOperationAdd(path, content) for path, content in upload.files.items()],
                    commit_message=upload.message,
                    revision=upload.repository.revision,
                    **upload.repository.address,
                )
        except HTTPError as error:
            answer = error.response if isinstance(error, HfHubHTTPError) else None
            is_refusal = answer is not None and answer.status_code not in _TRANSIENT
            request = error.request if answer is None else answer.request
            if is_refusal or "/commit/" not in request.url.path or (wait := next(waits, None)) is None:
                raise
            logger.warning(f"The commit was not taken ({_said(error)}): it is tried again in {wait:g} s.")
            time.sleep(wait)


# ------------------------------------------------------------------------------------------------------------- refusals

_AGAIN = "repeat the command later, which uploads only what is missing"
_REFUSALS = {
    401: "{hub} does not accept the token ({said}): make one with the right to write in the settings of your account, "
    "and pass it on by hf auth login, HF_TOKEN or --token.",
    403: "{user} may not write to {target} with this token ({said}): use one that may, or choose another REPO_ID.",
    404: "{hub} has no place for {target} ({said}): choose another REPO_ID, --repo_type or --revision.",
}
"""Sentences for the Hub's answers by status; the others are below."""


@contextmanager
def _in_words(api: HfApi, user: str = "", repository: Repository | None = None) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence.

    That is `HTTPError` of requests, `OSError` of files and of offline mode, `RuntimeError` around whatever an upload
    failed of, `ValueError` of a card that the Hub refuses, and that or `KeyError` of answers that no Hub gives.
    """
    try:
        yield
    except InputError:
        raise
    except (HTTPError, KeyError, OSError, RuntimeError, ValueError) as error:
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        words = {"hub": api.endpoint, "said": _said(cause), "user": user or "The user", "target": repository or "it"}
        raise HubError(_sentence(cause).format(**words)) from error


def _sentence(error: BaseException) -> str:
    """The sentence for an error, with places for the Hub, what was said, the user and the repository."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status >= 500 or status in _TRANSIENT:
            return f"{{hub}} did not take the push ({{said}}): {_AGAIN}."
        return _REFUSALS.get(status, "{hub} refuses the push to {target} ({said}): change that and repeat the command.")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE keeps this machine from asking {hub}: unset it, or use --dry_run."
    if isinstance(error, HTTPError):
        return f"{{hub}} cannot be reached, or broke off ({{said}}): check the network and HF_ENDPOINT, and {_AGAIN}."
    if str(error).startswith("Invalid metadata"):
        return "{hub} does not accept the card ({said}): nothing was pushed; please report what was compared."
    if isinstance(error, (json.JSONDecodeError, KeyError)):
        return f"{{hub}} gave an answer that no Hub gives ({{said}}): check HF_ENDPOINT, and {_AGAIN}."
    return f"The push to {{hub}} failed ({{said}}): {_AGAIN}."


def _said(error: BaseException) -> str:
    """What the Hub or the client says of an error, in one line without a full stop."""
    if isinstance(error, HfHubHTTPError):
        words = f"{error.response.status_code} {error.server_message or error.response.reason_phrase}"
    else:
        words = str(error) or type(error).__name__
    return " ".join(words.split()).rstrip(".")

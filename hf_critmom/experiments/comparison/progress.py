"""Progress of a comparison in the terminal."""

from types import TracebackType
from typing import Any

from rich import progress as bars
from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_critmom.experiments.comparison.plan import Run
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.statistics import Metric
from hf_critmom.storage.workers import Send


class RunProgress:
    """What a run tells of itself; the base of what shows it here and of what sends it to the process that shows it."""

    def callback(self, run: Run, metric: str) -> TrainerCallback:
        """A callback that shows one run's steps, and a metric of its evaluations."""
        return _StepsCallback(self, run.title, metric)

    def begin(self, description: str, step: int, max_steps: int) -> None:
        """Begins to show a run."""
        raise NotImplementedError

    def advance(self, step: int) -> None:
        """Shows that the current run has reached a step."""
        raise NotImplementedError

    def evaluated(self, description: str, epoch: float, note: str) -> None:
        """Shows what an evaluation found."""
        raise NotImplementedError

    def finished(self, run: Run, result: RunResult, *, earlier: bool = False) -> None:
        """Counts a run as finished and says how it ended."""
        raise NotImplementedError

    def waits_for_others(self, number: int) -> None:
        """Says, once for a number, that the runs that are left are being made elsewhere."""
        raise NotImplementedError


class SentProgress(RunProgress):
    """Sends what the runs of a worker tell to the process that shows it, as the name of a method with its arguments.

    Args:
        send: Sends an event.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    def begin(self, description: str, step: int, max_steps: int) -> None:
        self._send("begin", description, step, max_steps)

    def advance(self, step: int) -> None:
        self._send("advance", step)

    def evaluated(self, description: str, epoch: float, note: str) -> None:
        self._send("evaluated", description, epoch, note)

    def finished(self, run: Run, result: RunResult, *, earlier: bool = False) -> None:
        self._send("finished", run, result)

    def waits_for_others(self, number: int) -> None:
        """Says nothing: the runs that a worker waits for are mostly those of the workers beside it."""


class Progress(RunProgress):
    """A bar over the runs and one over the steps of each current run, on the main process; a line per finished run.

    Args:
        num_runs: Runs in all.
        shown: Whether this process is the one that shows anything.
        workers: Runs that are made at once.
    """

    def __init__(self, num_runs: int, *, shown: bool, workers: int = 1) -> None:
        self.console = Console(stderr=True, quiet=not shown)
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not shown,
        )
        self._runs = self._bars.add_task("runs", total=num_runs, note="")
        self._waited_for = 0
        self._steps = [self._bars.add_task("starting", total=None, note="") for _ in range(workers)]
        self._worker = 0
        self._counted: set[Run] = set()
        self.trainer_seconds = 0.0

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def handle(self, worker: int, method: str, *args: Any) -> None:
        """Shows what `SentProgress` sent from a worker."""
        self._worker = worker
        getattr(self, method)(*args)

    def died(self, worker: int, signal_number: int) -> None:
        """Says that a worker was killed."""
        self._bars.update(self._steps[worker], visible=False)
        self.console.print(f"a worker was killed (signal {signal_number}): the others make its run")

    def finished(self, run: Run, result: RunResult, *, earlier: bool = False) -> None:
        if run in self._counted:  # every worker looks at every run
            return
        self._counted.add(run)
        if not earlier:
            self.trainer_seconds += result.trainer_seconds
        tested = {name: value for name, value in result.test.items() if name != "loss" and value is not None}
        ended = "".join(f"test {Metric(name).title} {value:.4f}, " for name, value in tested.items())
        ended = ended if result.finished else f"{result.status}, "
        seconds = f"{result.train_seconds:.0f} s of training"
        when = " (done before)" if earlier else ""
        self.console.print(f"{run.title}: {ended}{seconds}{when}", highlight=False)
        self._bars.advance(self._runs)

    def waits_for_others(self, number: int) -> None:
        if number != self._waited_for:
            self.console.print(f"waiting for {number} run{'s' if number > 1 else ''} that others are making")
            self._waited_for = number

    def took(self, seconds: float) -> None:
        """Says how long the runs took, and which share of the workers' time the Trainer."""
        if self.trainer_seconds:
            share = self.trainer_seconds / (seconds * len(self._steps))
            self.console.print(f"{seconds:.0f} s, {share:.1%} of them in the Trainer", highlight=False)

    def begin(self, description: str, step: int, max_steps: int) -> None:
        self._bars.reset(self._steps[self._worker], total=max_steps, completed=step, description=description, note="")

    def advance(self, step: int) -> None:
        self._bars.update(self._steps[self._worker], completed=step)

    def evaluated(self, description: str, epoch: float, note: str) -> None:
        """Behind the bar, or as a line where output goes to a file."""
        self._bars.update(self._steps[self._worker], note=note)
        if not self.console.is_terminal:
            self.console.print(f"{description}: epoch {epoch:g}, {note}", highlight=False)


class _StepsCallback(TrainerCallback):
    def __init__(self, progress: RunProgress, description: str, metric: str) -> None:
        self.progress = progress
        self.description = description
        self.metric = metric

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.begin(self.description, state.global_step, state.max_steps)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.advance(state.global_step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if metrics is not None and f"eval_{self.metric}" in metrics:
            note = f"validation {Metric(self.metric).title} {metrics[f'eval_{self.metric}']:.4f}"
            self.progress.evaluated(self.description, state.epoch or 0.0, note)

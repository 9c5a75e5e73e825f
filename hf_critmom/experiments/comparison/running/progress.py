"""Progress of a comparison in the terminal: one display for all workers."""

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_critmom.experiments.comparison.plan import Run
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.reporting.text import printable
from hf_critmom.storage.redaction import redact

SECONDS_BETWEEN_STEPS = 0.2
"""Least number of seconds between two reports of a run's steps."""
MAX_BARS = 16
"""Largest number of workers, and of machines, with their own bar."""


class Notifier:
    """Prints notes to standard error, each of them once.

    Args:
        shown: Whether this process prints anything.
    """

    def __init__(self, *, shown: bool) -> None:
        self.shown = shown
        self.console = Console(stderr=True, quiet=not shown, highlight=False)
        self._printed: set[str] = set()

    def note(self, text: str) -> None:
        """Prints a note, unless it was printed before."""
        if text.strip() and text not in self._printed:
            self._printed.add(text)
            self.console.print(printable(redact(text, sentence=True)), markup=False)


class Progress:
    """A bar for all runs, one for the steps of each worker's run, and a line for each finished run.

    Args:
        num_runs: Number of runs.
        notifier: The notifier, which shows them on the main process only.
        workers: Number of workers.
    """

    def __init__(self, num_runs: int, notifier: Notifier, *, workers: int = 1) -> None:
        self.notifier = notifier
        self.console = notifier.console
        self._workers = max(workers, 1)
        self._bars = _Bars(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            disable=not notifier.shown,
        )
        self._runs = self._bars.add_task("runs", total=num_runs, note="")
        self._steps: dict[int, bars.TaskID] = {}
        self._titles: dict[int, str] = {}
        self._machines: dict[str, bars.TaskID] = {}
        self._waited_for = 0
        self._began = time.perf_counter()
        self._trainer_seconds = 0.0

    def start(self) -> None:
        """Starts the display in a thread of its own, after workers were forked."""
        self._bars.start()

    def __enter__(self) -> "Progress":
        if self._workers == 1:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.lines.clear()
        self._bars.stop()
        if kind is None and self._trainer_seconds:
            seconds = time.perf_counter() - self._began
            share = self._trainer_seconds / (seconds * self._workers)
            self.console.print(f"{seconds:.0f} s, {share:.1%} of them in the Trainer")

    def finished(self, run: Run, result: RunResult, *, earlier: bool = False) -> None:
        """Counts a run as finished, and prints its result."""
        measured = {name: value for name, value in result.test.items() if value is not None}
        tested = {name: value for name, value in measured.items() if name != "loss"} or measured
        split = "test" if result.ended_on == "test" else "final validation"
        metrics = "".join(f"{split} {Metric(name).title} {value:.4f}, " for name, value in tested.items())
        outcome = metrics if result.finished else f"{result.status}, "
        seconds = f"{result.train_seconds:.0f} s of training"
        seconds += f" on {result.load.node}" if self._machines and result.load.node else ""
        self.console.print(f"{run.title}: {outcome}{seconds}{' (done before)' if earlier else ''}", markup=False)
        self._bars.advance(self._runs)
        self._trainer_seconds += 0.0 if earlier else result.trainer_seconds

    def failed(self, sentence: str) -> None:
        """Prints why a run failed."""
        self.console.print(sentence, markup=False)

    def worker_died(self, worker: int, sentence: str) -> None:
        """Prints that a worker died and what happens to its run, and removes its bar."""
        self.console.print(sentence, markup=False)
        self._bars.lines.pop(worker, None)
        if worker in self._steps:
            self._bars.remove_task(self._steps.pop(worker))

    def handle(self, worker: int, kind: str, *content: Any) -> None:
        """Shows an event from a worker, such as the start of a run, a step, an evaluation or a note."""
        if kind == "waiting":
            self._show_waiting(*content)
        elif kind == "message":
            self.notifier.note(*content)
        elif kind == "machines":
            self._show_machines(*content)
        elif kind == "begin" and (worker in self._steps or len(self._steps) < MAX_BARS):
            title, step, max_steps = content
            if worker not in self._steps:
                self._steps[worker] = self._bars.add_task(title, total=max_steps, note="")
            self._bars.reset(self._steps[worker], total=max_steps, completed=step, description=title, note="")
            self._titles[worker] = title
            self._bars.lines.pop(worker, None)
        elif kind == "line" and worker in self._steps:  # a line of a script's log
            run = f"{self._titles[worker]}: " if self._workers > 1 else ""
            self._bars.lines[worker] = f"{run}{printable(content[0])}"
        elif kind == "step" and worker in self._steps:
            self._bars.update(self._steps[worker], completed=content[0])
        elif kind == "evaluated" and worker in self._steps:
            title, epoch, note = content
            self._bars.update(self._steps[worker], note=note)
            if not self.console.is_terminal:  # output to a file has no bars
                self.console.print(f"{title}: epoch {epoch:g}, {note}", markup=False)

    def _show_machines(self, machines: Mapping[str, tuple[int, int]], waiting: int) -> None:
        """Shows the numbers of running and finished runs on each machine, and of waiting runs."""
        running = sum(number for number, _ in machines.values())
        self._bars.update(self._runs, note=f"{running} running, {waiting} waiting")
        for name, (number, finished) in machines.items():
            if name not in self._machines:
                if len(self._machines) >= MAX_BARS:
                    continue
                self._machines[name] = self._bars.add_task(name, total=None, note="")
            self._bars.update(self._machines[name], note=f"{number} running, {finished} finished")

    def _show_waiting(self, number: int) -> None:
        """Prints, once for each number, how many runs other launches are making."""
        if self._workers == 1 and number != self._waited_for:
            self.console.print(f"waiting for {number} run{'s' if number > 1 else ''} of other launches")
            self._waited_for = number


class _Bars(bars.Progress):
    """Bars, and below them a line of text for each worker that has one, cut to the width of the terminal."""

    def __init__(self, *columns: bars.ProgressColumn, **options: Any) -> None:
        self.lines: dict[int, str] = {}
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for _, line in sorted(self.lines.items()):
            yield Text(f"  {line}", style="dim", no_wrap=True, overflow="ellipsis")


class RunReporter(TrainerCallback):
    """Sends the start of a run, its steps, and a metric of its evaluations as events.

    Args:
        send: Sends an event.
        run: The run.
        metric: The metric.
    """

    def __init__(self, send: Callable[..., None], run: Run, metric: str) -> None:
        self.send, self.title, self.metric = send, run.title, metric
        self._last_sent = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.send("begin", self.title, state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.perf_counter()
        if now - self._last_sent >= SECONDS_BETWEEN_STEPS or state.global_step >= state.max_steps:
            self._last_sent = now
            self.send("step", state.global_step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if metrics is not None and f"eval_{self.metric}" in metrics:
            note = metric_note(self.metric, metrics[f"eval_{self.metric}"])
            self.send("evaluated", self.title, state.epoch or 0.0, note)


def metric_note(metric: str, value: float) -> str:
    """A value of the validation metric as the text next to a bar."""
    return f"validation {Metric(metric).title} {value:.4f}"

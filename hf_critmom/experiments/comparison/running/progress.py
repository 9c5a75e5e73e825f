"""Progress of a comparison in the terminal: one display, however many workers make the runs."""

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
"""Seconds between two reports of a run's step."""
MOST_BARS = 16
"""Workers, and machines, that have a bar of their own."""


class Watcher:
    """Where a launch says what happens; each note once.

    Args:
        shown: Whether this process is the one that shows anything.
    """

    def __init__(self, *, shown: bool) -> None:
        self.shown = shown
        self.console = Console(stderr=True, quiet=not shown, highlight=False)
        self._said: set[str] = set()

    def note(self, text: str) -> None:
        """Says something, unless it was said before."""
        if text.strip() and text not in self._said:
            self._said.add(text)
            self.console.print(printable(redact(text, sentence=True)), markup=False)


class Progress:
    """A bar over the runs and one over the steps of each worker's run, on the main process; a line per finished run.

    Args:
        num_runs: Runs in all.
        watcher: Where to show it.
        workers: Workers that make runs at the same time.
    """

    def __init__(self, num_runs: int, watcher: Watcher, *, workers: int = 1) -> None:
        self.watcher = watcher
        self.console = watcher.console
        self._workers = max(workers, 1)
        self._bars = _Bars(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            disable=not watcher.shown,
        )
        self._runs = self._bars.add_task("runs", total=num_runs, note="")
        self._steps: dict[int, bars.TaskID] = {}
        self._titles: dict[int, str] = {}
        self._machines: dict[str, bars.TaskID] = {}
        self._waited_for = 0
        self._began = time.perf_counter()
        self._trainer_seconds = 0.0

    def start(self) -> None:
        """Begins to draw, which takes a thread: workers have to be forked before."""
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
        """Counts a run as finished and says how it ended."""
        measured = {name: value for name, value in result.test.items() if value is not None}
        tested = {name: value for name, value in measured.items() if name != "loss"} or measured
        split = "test" if result.ended_on == "test" else "final validation"
        ended = "".join(f"{split} {Metric(name).title} {value:.4f}, " for name, value in tested.items())
        ended = ended if result.finished else f"{result.status}, "
        seconds = f"{result.train_seconds:.0f} s of training"
        seconds += f" on {result.load.node}" if self._machines and result.load.node else ""
        self.console.print(f"{run.title}: {ended}{seconds}{' (done before)' if earlier else ''}", markup=False)
        self._bars.advance(self._runs)
        self._trainer_seconds += 0.0 if earlier else result.trainer_seconds

    def failed(self, sentence: str) -> None:
        """Says that a run failed."""
        self.console.print(sentence, markup=False)

    def worker_died(self, worker: int, sentence: str) -> None:
        """Says that a worker died, and what becomes of its run."""
        self.console.print(sentence, markup=False)
        self._bars.lines.pop(worker, None)
        if worker in self._steps:
            self._bars.remove_task(self._steps.pop(worker))

    def handle(self, worker: int, kind: str, *content: Any) -> None:
        """Shows an event that a worker sent: a run that begins, its steps, an evaluation, or what it says."""
        if kind == "waiting":
            self._waits_for_others(*content)
        elif kind == "said":
            self.watcher.note(*content)
        elif kind == "machines":
            self._show_machines(*content)
        elif kind == "begin" and (worker in self._steps or len(self._steps) < MOST_BARS):
            title, step, max_steps = content
            if worker not in self._steps:
                self._steps[worker] = self._bars.add_task(title, total=max_steps, note="")
            self._bars.reset(self._steps[worker], total=max_steps, completed=step, description=title, note="")
            self._titles[worker] = title
            self._bars.lines.pop(worker, None)
        elif kind == "line" and worker in self._steps:  # of a script's own log
            run = f"{self._titles[worker]}: " if self._workers > 1 else ""
            self._bars.lines[worker] = f"{run}{printable(content[0])}"
        elif kind == "step" and worker in self._steps:
            self._bars.update(self._steps[worker], completed=content[0])
        elif kind == "evaluated" and worker in self._steps:
            title, epoch, note = content
            self._bars.update(self._steps[worker], note=note)
            if not self.console.is_terminal:  # no bar shows it where output goes to a file
                self.console.print(f"{title}: epoch {epoch:g}, {note}", markup=False)

    def _show_machines(self, machines: Mapping[str, tuple[int, int]], waiting: int) -> None:
        """Shows how many runs are running and finished on each machine, and how many wait."""
        running = sum(number for number, _ in machines.values())
        self._bars.update(self._runs, note=f"{running} running, {waiting} waiting")
        for name, (number, finished) in machines.items():
            if name not in self._machines:
                if len(self._machines) >= MOST_BARS:
                    continue
                self._machines[name] = self._bars.add_task(name, total=None, note="")
            self._bars.update(self._machines[name], note=f"{number} running, {finished} finished")

    def _waits_for_others(self, number: int) -> None:
        """Says, once for a number, that the runs that are left are being made elsewhere."""
        if self._workers == 1 and number != self._waited_for:
            self.console.print(f"waiting for {number} run{'s' if number > 1 else ''} that others are making")
            self._waited_for = number


class _Bars(bars.Progress):
    """Bars, and under them a line of text for each worker that has one, cut where the terminal ends."""

    def __init__(self, *columns: bars.ProgressColumn, **options: Any) -> None:
        self.lines: dict[int, str] = {}
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for _, line in sorted(self.lines.items()):
            yield Text(f"  {line}", style="dim", no_wrap=True, overflow="ellipsis")


class RunReporter(TrainerCallback):
    """Sends what happens in a run: its beginning, its steps, and a metric of its evaluations.

    Args:
        send: Takes events.
        run: The run.
        metric: The metric.
    """

    def __init__(self, send: Callable[..., None], run: Run, metric: str) -> None:
        self.send, self.title, self.metric = send, run.title, metric
        self._told = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.send("begin", self.title, state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.perf_counter()
        if now - self._told >= SECONDS_BETWEEN_STEPS or state.global_step >= state.max_steps:
            self._told = now
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
    """A value of the validation metric, as a bar shows it."""
    return f"validation {Metric(metric).title} {value:.4f}"

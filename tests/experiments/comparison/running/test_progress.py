"""Claims about what a terminal of 80 columns shows while runs are made."""

import io

from rich.console import Console, Group

from hf_critmom.experiments.comparison.running.progress import Notifier, Progress

LINE = "\x1b[31m{'loss': '2.608', 'eval_runtime': '2.675', 'eval_samples_per_second': '71.8', 'entropy': '2.7'}"


def shown(workers: int) -> list[str]:
    notifier = Notifier(shown=True)
    notifier.console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Progress(12, notifier, workers=workers) as progress:
        for worker in range(workers):
            progress.handle(worker, "begin", f"critmom_adamw, seed 4{worker}", 0, 300)
            progress.handle(worker, "step", 123)
            progress.handle(worker, "evaluated", "critmom_adamw", 0.3, "validation loss 2.3737")
            progress.handle(worker, "line", LINE)
        screen = Console(width=80, file=io.StringIO(), color_system=None)
        screen.print(Group(*progress._bars.get_renderables()))
    return screen.file.getvalue().splitlines()


def test_bars_and_a_scripts_last_line_fit_in_80_columns() -> None:
    runs, run, line = shown(1)
    assert runs.startswith("runs") and "0/12" in runs
    assert run.startswith("critmom_adamw, seed 40") and "123/300" in run and run.endswith("validation loss 2.3737")
    assert "'loss': '2.608'" in line and line.endswith("…") and len(line) == 80
    assert "\x1b" not in line


def test_with_several_workers_each_line_names_its_run() -> None:
    *bars, first, second = shown(2)
    assert len(bars) == 3
    assert first.strip().startswith("critmom_adamw, seed 40: ") and second.strip().startswith("critmom_adamw, seed 41:")

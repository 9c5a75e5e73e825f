"""Claims about the array job: its elements share the runs of a comparison, even if some are killed and requeued.

Stand-ins for Slurm's ``sbatch`` and ``srun`` on the PATH run the script's elements as local processes.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.launches import outcome

from hf_critmom.commands import main

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "slurm" / "compare.sbatch"
TINY = (
    *("--width", "2", "--max_train_samples", "64", "--max_eval_samples", "32", "--num_train_epochs", "6", "--use_cpu"),
    *("--arms", "constant", "critmom", "--num_seeds", "2", "--evaluations_per_epoch", "1", "--workers", "1"),
)
SBATCH = '''#!{python}
"""Runs the elements of an array job as process groups; the first one is killed when it has saved, and requeued."""
import os, pathlib, re, signal, subprocess, sys, time

script, *flags = [word for word in sys.argv[1:] if not word.startswith("--array=")]
(array,) = [word.partition("=")[2] for word in sys.argv if word.startswith("--array=")]
options = dict(re.findall(r"^#SBATCH --([\\w-]+)(?:=(.*))?$", pathlib.Path(script).read_text(), flags=re.M))
first, last = map(int, array.split("-"))
folder = pathlib.Path(flags[flags.index("--output_dir") + 1])


def start(element, restarts):
    environment = {{
        **os.environ, "SLURM_JOB_ID": str(7 + element), "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(element),
        "SLURM_CPUS_PER_TASK": options["cpus-per-task"], "SLURM_RESTART_COUNT": str(restarts),
    }}
    log = options["output"].replace("%x", options["job-name"]).replace("%A", "7").replace("%a", str(element))
    with open(log, options["open-mode"][0]) as output:
        return subprocess.Popen(
            ["bash", script, *flags], env=environment, stdout=output, stderr=output, start_new_session=True
        )


elements = {{element: start(element, 0) for element in range(first, last + 1)}}
if os.environ.get("PREEMPTS"):
    while not (saved := list(folder.glob("runs/*/*/checkpoint-*/trainer_state.json"))):
        assert elements[first].poll() is None
        time.sleep(0.01)
    os.killpg(elements[first].pid, signal.SIGKILL)
    elements[first].wait()
    assert "requeue" in options
    print("preempted", saved[0].parent.parent)
    elements[first] = start(first, 1)
statuses = [element.wait() for element in elements.values()]
print("ended", statuses)
'''


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit jobs from, with the stand-ins on the PATH."""
    programs = {
        "sbatch": SBATCH.format(python=sys.executable),
        "srun": '#!/bin/bash\n[[ "$1" == --cpus-per-task=* ]] && shift\nexec "$@"\n',
        "scontrol": '#!/bin/bash\necho "$@" >> scontrol.txt\n',
        "hf-critmom": f'#!/bin/bash\nexec {sys.executable} -m hf_critmom "$@"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(*words: str) -> str:
    done = subprocess.run(["sbatch", *words], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_elements_share_the_runs_even_if_one_is_killed_and_requeued(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREEMPTS", "1")
    said = submit("--array=0-1", str(SCRIPT), *TINY, "--output_dir", "shared")
    assert "preempted shared/runs/" in said and "ended [0, 0]" in said
    assert main(("compare", *TINY, "--output_dir", "calm")) == 0
    assert outcome(cluster / "shared") == outcome(cluster / "calm")
    logs = "".join(log.read_text() for log in sorted(cluster.glob("hf-critmom-7_*.log")))
    evaluations = re.findall(r"^(\w+, seed \d+: epoch \d)", logs, flags=re.MULTILINE)
    assert len(evaluations) >= 4 * 6 - 1  # the killed one may not have told its last
    # Whoever went on with the run did not begin it again: at most the epoch after the last checkpoint was repeated.
    repeated = [one for one in set(evaluations) if evaluations.count(one) > 1]
    assert len(repeated) <= 1 and not any(one.endswith("epoch 1") for one in repeated)


def test_an_element_near_its_time_limit_requeues_itself(cluster: Path) -> None:
    """With a launch that only waits, because the script handles the signals."""
    (cluster / "bin" / "hf-critmom").write_text(
        '#!/bin/bash\ntrap "echo terminated; exit 143" TERM\necho began "$@"\ntouch began\nsleep 30 & wait\n'
    )
    environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    with Path("said").open("w") as said:
        element = subprocess.Popen(["bash", str(SCRIPT), "--num_seeds", "2"], env=environment, stdout=said)
    while not (cluster / "began").exists():
        assert element.poll() is None
    element.send_signal(10)  # SIGUSR1
    assert element.wait(60) == 0
    first, *others = Path("said").read_text().splitlines()
    assert first == "began compare --save_strategy epoch --num_seeds 2" and "terminated" in others
    assert (cluster / "scontrol.txt").read_text() == "requeue 7_3\n"


def test_the_status_of_an_element_is_that_of_its_command(cluster: Path) -> None:
    (cluster / "bin" / "hf-critmom").write_text("#!/bin/bash\nexit 2\n")
    assert subprocess.run(["bash", str(SCRIPT)], timeout=60).returncode == 2
    assert not (cluster / "scontrol.txt").exists()

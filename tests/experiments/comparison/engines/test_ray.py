"""Claims about comparisons on a Ray cluster: two machines in processes of this one, one core each."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.launches import launch, outcome, status_of, wait_until

from hf_critmom.commands import main

ray = pytest.importorskip("ray", minversion="2.50", reason="ray has no wheel for this Python")

TINY = (
    *("compare", "--width", "2", "--num_train_epochs", "2", "--max_train_samples", "64", "--max_eval_samples", "32"),
    *("--use_cpu", "--evaluations_per_epoch", "1"),
)
ON_RAY = (*TINY, "--engine", "ray")
ARMS = '''
"""Arms of a user, whose optimizers do what optimizers of users do, in steps that only a run comes to."""

import os, signal, time
from pathlib import Path

import torch

HERE = Path(__file__).parent


class Counting(torch.optim.SGD):
    steps = 0

    def step(self, closure=None):
        self.steps += 1
        self.before()
        return super().step(closure)


class Slow(Counting):
    """Says where it runs, and waits until somebody has pulled the plug of a machine, if somebody is about to."""

    def before(self):
        if self.steps == 2:
            (HERE / f"running-{os.getpid()}").touch()
            deadline = time.monotonic() + 100.0
            while (HERE / "plug").exists() and time.monotonic() < deadline:
                time.sleep(0.05)


class Fails(Counting):
    def before(self):
        if self.steps == 4:
            raise RuntimeError("the optimizer of the user is broken")


class Dies(Counting):
    """Is killed with its process, once."""

    def before(self):
        if self.steps == 4 and not (HERE / "died").exists():
            (HERE / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the optimizers of a user lie, where every process finds them."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "users_arms.py").write_text(ARMS, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Any]:
    """A Ray cluster of two machines with one core each, which this process is connected to."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        patch.syspath_prepend(str(place))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("HF_HUB_OFFLINE", "1")
        cluster = patiently(
            lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        )
        patiently(lambda: cluster.add_node(num_cpus=1))
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a machine half a minute to start, which a busy one may need longer for."""
    for _ in range(4):
        try:
            return start()
        except Exception as error:
            late = error
    raise late


def made_at(folder: Path) -> dict[Path, int]:
    """When each result of a comparison was written."""
    return {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/*/result.json")}


def loads(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text())["load"] for file in sorted(folder.glob("runs/*/*/result.json"))]


def test_two_machines_make_what_one_makes_and_say_where(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a comparison that grows until it is decided: seeds are handed out as the looks decide."""
    opposites = ("--arms", "constant", "constant[lr=1e-9,name=still]")
    growing = (*opposites, "--until_decided", "--num_seeds", "2", "--max_seeds", "3", "--targets", "0.99")
    assert main((*ON_RAY, *growing, "--output_dir", str(tmp_path / "ray"))) == 0
    shown = capfd.readouterr().err
    assert "2 seeds: 0 of 1 claim decided; seed 44 is added to every arm." in shown
    assert shown.count("s of training on ") == 6 and "0 running, 0 waiting" in shown
    assert main((*TINY, *growing, "--workers", "1", "--output_dir", str(tmp_path / "local"))) == 0
    assert outcome(tmp_path / "ray") == outcome(tmp_path / "local") != {}
    for name in ("model.safetensors", "config.json", "README.md", "trainer_state.json"):
        found = [len(list((tmp_path / where).glob(f"runs/*/*/{name}"))) for where in ("ray", "local")]
        assert found[0] == found[1]
    assert len({load["node"] for load in loads(tmp_path / "ray")}) == 2
    assert {(load["device"], load["share"], load["retries"]) for load in loads(tmp_path / "ray")} == {("cpu", 1.0, 0)}
    assert not list((tmp_path / "ray").glob(".ray-*"))


@pytest.mark.slow
def test_a_failing_arm_is_a_sentence_and_a_dying_one_is_made_again(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that diverges is a result."""
    arms = (
        "--arms",
        "users_arms.Fails[lr=0.1,name=fails]",
        "users_arms.Dies[lr=0.1,name=dies]",
        "constant[lr=1e6,weight_decay=10,name=explodes]",
    )
    words = (*ON_RAY, *arms, "--num_seeds", "1", "--workers", "1", "--per_device_train_batch_size", "16")
    assert main((*words, "--output_dir", str(tmp_path))) == 2
    shown = capfd.readouterr().err
    assert shown.count("was lost with its process or machine") == 1
    assert "failed (the optimizer of the user is broken), see" in shown
    assert "broken" in (tmp_path / "runs" / "fails" / "seed-42" / "error.txt").read_text()
    results = {file.parts[-3]: json.loads(file.read_text()) for file in made_at(tmp_path)}
    assert {name: result["status"] for name, result in results.items()} == {"dies": "finished", "explodes": "diverged"}
    assert results["dies"]["load"]["retries"] == 1


@pytest.mark.slow
def test_neither_a_killed_command_nor_a_killed_machine_changes_a_result(
    cluster: Any, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first command has a Ray of its own, which ends with it; of its successor's two machines one is killed."""
    arms = ("--arms", "constant", "users_arms.Slow[lr=0.1]", "--num_seeds", "3", "--output_dir", str(tmp_path / "c"))
    killed = launch(*ON_RAY, *arms, said=tmp_path / "said", environment={"PYTHONPATH": os.environ["PYTHONPATH"]})
    wait_until(lambda: made_at(tmp_path / "c"), killed)
    begun = psutil.Process(killed.pid).children(recursive=True)
    os.kill(killed.pid or 0, signal.SIGKILL)
    assert status_of(killed) == -signal.SIGKILL
    before = made_at(tmp_path / "c")
    for file in place.glob("running-*"):
        file.unlink()
    (place / "plug").touch()
    machine = next(iter(cluster.worker_nodes))
    plug = threading.Thread(target=pull_the_plug, args=(machine, place), daemon=True)
    plug.start()
    assert main((*ON_RAY, *arms)) == 0
    plug.join(1.0)
    shown = capfd.readouterr().err
    assert not plug.is_alive() and "was lost with its process or machine" in shown
    after = made_at(tmp_path / "c")
    assert {file: after[file] for file in before} == before and len(after) == 6
    assert sum(load["retries"] for load in loads(tmp_path / "c")) == 1
    assert main((*TINY, *arms[:-1], str(tmp_path / "local"), "--workers", "1")) == 0
    assert outcome(tmp_path / "c") == outcome(tmp_path / "local")
    assert not [process for process in begun if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def pull_the_plug(machine: Any, place: Path) -> None:
    """Kills every process of a machine as soon as it is in the middle of a run."""
    raylet = psutil.Process(machine.all_processes["raylet"][0].process.pid)
    while True:
        processes = [raylet, *raylet.children(recursive=True)]
        if any((place / f"running-{process.pid}").exists() for process in processes):
            break
        time.sleep(0.05)
    for process in processes:
        process.kill()
    (place / "plug").unlink()


def test_more_than_any_machine_has_is_one_sentence(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag, said in (("--cpus_per_run", "which is 1 CPUs at most"), ("--gpus_per_run", "which is 0 GPUs at most")):
        words = [word for word in ON_RAY if word != "--use_cpu" or flag == "--cpus_per_run"]
        assert main((*words, flag, "3", "--output_dir", str(tmp_path / "out"))) == 2
        sentence = capsys.readouterr().err
        assert said in sentence and sentence.count("\n") == 1 and not (tmp_path / "out").exists()

"""Claims about experiments on a Ray cluster: two machines in processes of this one, one core each."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ray_cluster
from helpers.launches import launch, outcome, status_of, wait_until
from helpers.ray_cluster import (
    FIRST_THAT_WAITS,
    Descent,
    Descents,
    Told,
    make_descents,
    pull_the_plug,
    second_machine,
    two_machines,
)
from helpers.script_comparisons import compare, write_script
from helpers.warm_python import serving

from hf_critmom.commands import main
from hf_critmom.engines.interface import Work
from hf_critmom.engines.ray_cluster import Share
from hf_critmom.errors import InputError

ray = pytest.importorskip("ray", minversion="2.50", reason="ray has no wheel for this Python")

DATA = ("--max_train_samples", "64", "--max_eval_samples", "32")
TINY = (
    *("compare", "--width", "2", "--num_train_epochs", "1", *DATA, "--use_cpu", "--evaluations_per_epoch", "1"),
    *("--per_device_train_batch_size", "16"),
)
ON_RAY = ("--engine", "ray")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the optimizers of a user lie, where every process finds them."""
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Any]:
    with two_machines(place) as cluster:
        yield cluster


def made_at(folder: Path) -> dict[Path, int]:
    """When each result of an experiment was written."""
    return {file: file.stat().st_mtime_ns for file in folder.glob("runs/**/result.json")}


def loads(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text())["load"] for file in sorted(folder.glob("runs/**/result.json"))]


@pytest.mark.slow
def test_what_had_been_returned_outlives_a_killed_command_and_the_rest_a_killed_machine_and_process(
    cluster: Any, tmp_path: Path
) -> None:
    """The slow tests show the same of a whole comparison."""
    data, folder = tmp_path / "data", tmp_path / "ray"
    data.mkdir()
    folder.mkdir()
    (data / "plug").touch()
    numbers = [*range(5), *range(FIRST_THAT_WAITS, FIRST_THAT_WAITS + 3)]
    command = [sys.executable, ray_cluster.__file__, cluster.address, folder, data, *numbers]
    killed = subprocess.Popen([str(word) for word in command])
    wait_until(lambda: len(made_at(folder)) == 5 and len(list(data.glob("running-*"))) == 2)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    before = made_at(folder)
    for file in data.glob("running-*"):
        file.unlink()
    (data / f"kill-once-{numbers[-1]}").touch()
    plug = threading.Thread(target=pull_the_plug, args=(second_machine(cluster), data), daemon=True)
    plug.start()
    make_descents(None, folder, data, numbers)
    plug.join(1.0)
    assert not plug.is_alive() and not (data / f"kill-once-{numbers[-1]}").exists()
    after = made_at(folder)
    assert len(after) == 8 and {file: after[file] for file in before} == before
    there, here = Descents(folder, data), Descents(tmp_path, data)
    for job in map(Descent, numbers):
        assert there.weight(job) == here.execute(job, 0.1, tmp_path / "here" / str(job.number), lambda *event: None)
    assert sum(load["retries"] for load in loads(folder)) >= 2


@pytest.fixture(scope="module")
def compared(cluster: Any, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that two commands made, of which one was killed, on two machines, of which one was killed.

    It grows until it is decided: seeds are handed out as the looks decide. Processes of runs die as well.
    """
    folder = tmp_path_factory.mktemp("compared")
    arms = ("--arms", "users_arms.Dies[lr=0.1,name=dies]", "users_arms.Slow[lr=1e-9,name=still]", "--targets", "0.99")
    words = (*TINY, *arms, "--until_decided", "--num_seeds", "2", "--max_seeds", "3", "--output_dir")
    there = (*ON_RAY, "--ray_address", cluster.address)
    paths = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    (place / "plug").touch()  # slow runs wait
    killed = launch(*words, str(folder / "ray"), *there, said=folder / "said", environment=paths)
    wait_until(lambda: made_at(folder / "ray"), killed)
    os.kill(killed.pid or 0, signal.SIGKILL)
    assert status_of(killed) == -signal.SIGKILL
    before = made_at(folder / "ray")
    for file in place.glob("running-*"):
        file.unlink()
    (place / "deadly").touch()
    plug = threading.Thread(target=pull_the_plug, args=(second_machine(cluster), place), daemon=True)
    plug.start()
    assert main((*words, str(folder / "ray"), *ON_RAY)) == 0
    plug.join(1.0)
    assert not plug.is_alive() and not (place / "deadly").exists()
    after = made_at(folder / "ray")
    assert len(before) < len(after) and {file: after[file] for file in before} == before
    assert main((*words, str(folder / "local"), "--workers", "1")) == 0
    return folder


@pytest.mark.slow
def test_neither_a_killed_command_nor_a_killed_machine_or_process_changes_a_result(compared: Path) -> None:
    assert outcome(compared / "ray") == outcome(compared / "local") != {}
    assert (compared / "ray/results.parquet").exists() and len(made_at(compared / "ray")) == 6
    for name in ("model.safetensors", "config.json", "README.md", "trainer_state.json"):
        found = [len(list((compared / where).glob(f"runs/*/*/{name}"))) for where in ("ray", "local")]
        assert found[0] == found[1]
    made = loads(compared / "ray")
    assert sum(load["retries"] for load in made) >= 2 and len({load["node"] for load in made}) == 2
    assert {(load["device"], load["share"]) for load in made} == {("cpu", 1.0)}


@pytest.mark.slow
def test_an_arm_that_fails_is_a_sentence_and_one_that_diverges_a_result(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arms = ("--arms", "users_arms.Fails[lr=0.1,name=fails]", "constant[lr=1e6,weight_decay=10,name=explodes]")
    words = (*TINY, *ON_RAY, *arms, "--num_seeds", "1", "--workers", "1")
    assert main((*words, "--output_dir", str(tmp_path))) == 2
    assert "failed (the optimizer of the user is broken), see" in capfd.readouterr().err
    assert "broken" in (tmp_path / "runs" / "fails" / "seed-42" / "error.txt").read_text()
    results = {file.parts[-3]: json.loads(file.read_text())["status"] for file in made_at(tmp_path)}
    assert results == {"explodes": "diverged"}


@pytest.mark.slow
def test_trials_are_made_as_by_workers_of_this_machine(cluster: Any, tmp_path: Path) -> None:
    tuned = (*TINY, "--arms", "constant", "--num_seeds", "1", "--learning_rate_grid", "0.1", "1", "--workers", "1")
    for name, engine in (("ray", ON_RAY), ("local", ())):
        assert main((*tuned, *engine, "--output_dir", str(tmp_path / name))) == 0
    assert outcome(tmp_path / "ray") == outcome(tmp_path / "local")
    assert len(list(tmp_path.glob("ray/runs/constant/tuning/*/result.json"))) == 2
    assert {load["workers"] for load in loads(tmp_path / "ray")} == {1}


@pytest.mark.slow
def test_checkpoints_are_studied_as_by_workers_of_this_machine(
    cluster: Any, compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their files go along: a folder that only this process can name needs to be nowhere else."""
    monkeypatch.chdir(compared / "local" / "runs")
    words = ("attribute", "dies/seed-42", "dies/seed-43", *DATA, "--use_cpu", "--workers", "1")
    found = []
    for name, engine in (("ray", ON_RAY), ("local", ())):
        assert main((*words, *engine, "--output_dir", str(tmp_path / name))) == 0
        found.append(json.loads((tmp_path / name / "attribution.json").read_text()))
        del found[-1]["command"]
    assert found[0] == found[1] and len(found[0]["checkpoints"]) == 2


@pytest.mark.slow
def test_treatments_are_made_as_by_workers_of_this_machine(
    cluster: Any, compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(compared / "local" / "runs" / "dies" / "seed-42")
    words = ("repair", checkpoint, "--num_train_epochs", "1", "--use_cpu", "--controls", *DATA, "--workers", "1")
    found = []
    for name, engine in (("ray", ON_RAY), ("local", ())):
        assert main((*words, *engine, "--output_dir", str(tmp_path / name))) == 0
        results = outcome(tmp_path / name)
        found.append({file: without_speed(content) for file, content in results.items()})
        assert (tmp_path / name / "model.safetensors").exists()
    assert found[0] == found[1] and len(found[0]) > 4
    assert {load["device"] for load in loads(tmp_path / "ray")} == {"cpu"}
    assert "treating " in capsys.readouterr().err


def without_speed(content: Any) -> Any:
    return {k: v for k, v in content.items() if k != "samples_per_second"} if isinstance(content, dict) else content


@pytest.fixture
def engine(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One worker."""
    from hf_critmom.engines import ray as engines

    monkeypatch.setattr(engines, "MOST_RETRIES", 0)
    engine = engines.RayEngine(None, Share(1.0, 0.0), 1, 1)
    yield engine
    engine.close()


def test_two_hundred_runs_wait_without_filling_the_command_s_memory(engine: Any, tmp_path: Path) -> None:
    """Each returns 200 kB of files; one kills its process, and is not made more often than is allowed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kill-13").touch()
    descents, told = Descents(tmp_path, tmp_path / "data"), Told()
    engine.make(Work([Descent(number) for number in range(200)], 0.1, descents, descents), told)
    made = [number for number in range(200) if number != 13]
    for number in made:
        here = descents.execute(Descent(number), 0.1, tmp_path / "here" / str(number), lambda *event: None)
        assert descents.weight(Descent(number)) == here
    failed = [event[1] for event in told.events if event[0] == "failed"]
    assert len(failed) == 1 and failed[0].startswith("The run descent 13 failed (it was lost 1 times")
    assert told.memory[-1] - told.memory[len(told.memory) // 4] < 10e6
    assert all((tmp_path / Descent(n).folder / "model.bin").stat().st_size == 200_000 for n in (0, 199))


@pytest.mark.slow
def test_a_machine_without_the_data_is_a_sentence(engine: Any, tmp_path: Path) -> None:
    descents = Descents(tmp_path, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^\S+: There are no data at .*: give every machine the same\.$"):
        engine.make(Work([Descent(0)], 0.1, descents, descents), Told())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (Share(3.0, 0.0), r"^--cpus_per_run 3 is more than any of the \d machines .* has, which is 1 CPUs at most"),
        (Share(1.0, 0.25), r"^--gpus_per_run 0.25 is more than any of .* which is 0 GPUs at most"),
    ],
)
def test_more_than_any_machine_has_is_a_sentence(cluster: Any, share: Share, said: str) -> None:
    from hf_critmom.engines.ray_cluster import Cluster

    with pytest.raises(InputError, match=said):
        Cluster(None, share)


@pytest.mark.slow
def test_a_script_is_run_there_as_here(cluster: Any, tmp_path: Path, warm: str) -> None:
    script = write_script(tmp_path)
    flags = ("--arms", "adamw", "matched", "--num_seeds", "1", "--targets", "2.7", "--threads_per_worker", "1")
    for name, engine in (("ray", ON_RAY), ("local", ())):
        assert compare(warm, script, tmp_path / name, *flags, *engine, "--workers", "1") == 0
    assert outcome(tmp_path / "ray") == outcome(tmp_path / "local") != {}
    assert all(load["node"] for load in loads(tmp_path / "ray"))


@pytest.fixture(scope="module")
def warm() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp())  # the path of a socket must be short
    with serving(folder) as launcher:
        yield launcher
    shutil.rmtree(folder)

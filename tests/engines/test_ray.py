"""Claims about experiments on a Ray cluster of two simulated machines with one core each."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers import descents
from helpers.descents import Descent
from helpers.launches import launch, outcome, status_of, wait_until
from helpers.ray_cluster import plug_pulled, second_machine, two_machines
from helpers.script_comparisons import ARGUMENTS, compare, write_script

from hf_critmom.commands import main
from hf_critmom.engines.local import LocalEngine
from hf_critmom.engines.ray_cluster import Share
from hf_critmom.errors import InputError
from hf_critmom.experiments.comparison.plan import Plan

ray = pytest.importorskip("ray", minversion="2.50", reason="ray has no wheel for this Python")

DATA = ("--max_train_samples", "64", "--max_eval_samples", "32")
TINY = (
    *("compare", "--width", "2", "--num_train_epochs", "1", *DATA, "--use_cpu", "--evaluations_per_epoch", "1"),
    *("--per_device_train_batch_size", "16"),
)
ON_RAY = ("--engine", "ray")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's optimizers, which every process can import."""
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Any]:
    with two_machines(place) as cluster:
        yield cluster


def result_times(folder: Path) -> dict[Path, int]:
    """Modification time of each result of an experiment."""
    return {file: file.stat().st_mtime_ns for file in folder.glob("runs/**/result.json")}


def loads(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text())["load"] for file in sorted(folder.glob("runs/**/result.json"))]


def test_a_comparison_on_two_machines_has_the_table_of_a_local_one(cluster: Any, place: Path, tmp_path: Path) -> None:
    """Bit for bit, with runs on both machines at the same time."""
    second_machine(cluster)
    words = (*TINY, "--arms", "users_arms.Meets[lr=0.1,name=meets]", "--num_seeds", "2", "--targets", "0.2")
    (place / "meet").touch()
    assert main((*words, *ON_RAY, "--output_dir", str(tmp_path / "ray"))) == 0
    (place / "meet").unlink()
    assert main((*words, "--workers", "1", "--output_dir", str(tmp_path / "local"))) == 0
    assert outcome(tmp_path / "ray") == outcome(tmp_path / "local") != {}
    tables = [pd.read_parquet(tmp_path / name / "results.parquet").drop(columns="seconds") for name in ("ray", "local")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    made = loads(tmp_path / "ray")
    assert len({load["node"] for load in made}) == 2
    assert {(load["device"], load["share"], load["retries"]) for load in made} == {("cpu", 1.0, 0)}


def test_a_machine_that_is_killed_in_the_middle_changes_no_result(cluster: Any, data: Path, tmp_path: Path) -> None:
    """Nor does a killed process."""
    numbers = range(6)
    for number in numbers:
        (data / f"wait-{number}").touch()
    (data / "kill-once-5").touch()
    with plug_pulled(second_machine(cluster), data, "wait-*"):
        descents.make_on_ray(None, tmp_path / "ray", data, numbers)
    assert not (data / "kill-once-5").exists()
    lost = {number for number, load in descents.loads(tmp_path / "ray").items() if load["retries"]}
    assert 5 in lost and len(lost) >= 2
    assert {number for number, times in descents.begun(data).items() if times > 1} >= lost
    assert same_as_local(tmp_path, data, numbers)


def test_returned_results_survive_a_killed_command_and_are_not_repeated(
    cluster: Any, data: Path, tmp_path: Path
) -> None:
    second_machine(cluster)
    numbers, returned = range(8), range(5)
    for number in numbers[5:]:
        (data / f"wait-{number}").touch()
    folder = tmp_path / "ray"
    command = [sys.executable, descents.__file__, cluster.address, folder, data, *numbers]
    killed = subprocess.Popen([str(word) for word in command])
    wait_until(
        lambda: killed.poll() is not None or (len(result_times(folder)) == 5 and len({*data.glob("running-*")}) == 2)
    )
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    before = result_times(folder)
    for file in data.glob("wait-*"):
        file.unlink()
    told = descents.make_on_ray(None, folder, data, numbers)
    assert [event for event in told.events if event[0] == "finished" and event[2]] == [
        ("finished", Descent(number).folder, True) for number in returned
    ]
    after = result_times(folder)
    assert len(after) == 8 and {file: after[file] for file in before} == before
    assert {descents.begun(data)[number] for number in returned} == {1}
    assert same_as_local(tmp_path, data, numbers)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data of descents, and a folder for each engine."""
    for name in ("ray", "local", "data"):
        (tmp_path / name).mkdir()
    return tmp_path / "data"


def same_as_local(folder: Path, data: Path, numbers: Iterable[int]) -> bool:
    """Whether results and files of descents on Ray equal those of the same descents by a local worker."""
    descents.make(LocalEngine(1, 1), folder / "local", data, numbers)
    return descents.kept(folder / "ray") == descents.kept(folder / "local") != {}


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
    wait_until(lambda: result_times(folder / "ray"), killed)
    os.kill(killed.pid or 0, signal.SIGKILL)
    assert status_of(killed) == -signal.SIGKILL
    before = result_times(folder / "ray")
    for file in place.glob("running-*"):
        file.unlink()
    (place / "deadly").touch()
    with plug_pulled(second_machine(cluster), place):
        assert main((*words, str(folder / "ray"), *ON_RAY)) == 0
    assert not (place / "deadly").exists()
    after = result_times(folder / "ray")
    assert len(before) < len(after) and {file: after[file] for file in before} == before
    assert main((*words, str(folder / "local"), "--workers", "1")) == 0
    return folder


@pytest.mark.slow
def test_neither_a_killed_command_nor_a_killed_machine_or_process_changes_a_result(compared: Path) -> None:
    assert outcome(compared / "ray") == outcome(compared / "local") != {}
    assert (compared / "ray/results.parquet").exists() and len(result_times(compared / "ray")) == 6
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
    results = {file.parts[-3]: json.loads(file.read_text())["status"] for file in result_times(tmp_path)}
    assert results == {"explodes": "diverged"}


@pytest.mark.slow
def test_trials_are_the_same_as_with_local_workers(cluster: Any, tmp_path: Path) -> None:
    tuned = (*TINY, "--arms", "constant", "--num_seeds", "1", "--learning_rate_grid", "0.1", "1", "--workers", "1")
    for name, engine in (("ray", ON_RAY), ("local", ())):
        assert main((*tuned, *engine, "--output_dir", str(tmp_path / name))) == 0
    assert outcome(tmp_path / "ray") == outcome(tmp_path / "local")
    assert len(list(tmp_path.glob("ray/runs/constant/tuning/*/result.json"))) == 2
    assert {load["workers"] for load in loads(tmp_path / "ray")} == {1}


@pytest.mark.slow
def test_a_pilot_run_on_ray_sets_the_targets_of_a_local_one(cluster: Any, tmp_path: Path) -> None:
    words = (*TINY, "--arms", "constant[lr=0.05]", "--pilot", "--num_seeds", "1", "--workers", "1")
    words = (*words, "--max_train_samples", "512", "--num_train_epochs", "4")
    for name, engine in (("ray", ON_RAY), ("local", ())):
        assert main((*words, *engine, "--output_dir", str(tmp_path / name))) == 0
    plans = [Plan.read(tmp_path / name) for name in ("ray", "local")]
    assert plans[0].targets == plans[1].targets and plans[0].task.notes == plans[1].task.notes
    assert outcome(tmp_path / "ray") == outcome(tmp_path / "local") != {}


@pytest.mark.slow
def test_studies_of_checkpoints_are_the_same_as_with_local_workers(
    cluster: Any, compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are sent along, so the folder need not exist on other machines."""
    monkeypatch.chdir(compared / "local" / "runs")
    words = ("attribute", "dies/seed-42", "dies/seed-43", *DATA, "--use_cpu", "--workers", "1")
    found = []
    for name, engine in (("ray", ON_RAY), ("local", ())):
        assert main((*words, *engine, "--output_dir", str(tmp_path / name))) == 0
        found.append(json.loads((tmp_path / name / "attribution.json").read_text()))
        del found[-1]["command"]
    assert found[0] == found[1] and len(found[0]["checkpoints"]) == 2


@pytest.mark.slow
def test_treatments_are_the_same_as_with_local_workers(
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

    monkeypatch.setattr(engines, "MAX_RETRIES", 0)
    engine = engines.RayEngine(None, Share(1.0, 0.0), 1, 1)
    yield engine
    engine.close()


def test_two_hundred_waiting_runs_do_not_fill_the_memory_of_the_command(
    engine: Any, data: Path, tmp_path: Path
) -> None:
    """Each returns 200 kB of files; one kills its process, and is not retried more often than allowed."""
    (data / "kill-13").touch()
    told = descents.make(engine, tmp_path / "ray", data, range(200))
    failed = [event[1] for event in told.events if event[0] == "failed"]
    assert len(failed) == 1 and failed[0].startswith("The run descent 13 failed (it was lost 1 times")
    assert told.memory[-1] - told.memory[len(told.memory) // 4] < 10e6
    assert all((tmp_path / "ray" / Descent(n).folder / "model.bin").stat().st_size == descents.SIZE for n in (0, 199))
    (tmp_path / "ray" / Descent(13).folder / "error.txt").unlink()
    assert same_as_local(tmp_path, data, [number for number in range(200) if number != 13])


@pytest.mark.slow
def test_a_machine_without_the_data_is_a_sentence(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^\S+: There are no data at .*: give every machine the same\.$"):
        descents.make(engine, tmp_path, tmp_path / "nowhere", [0])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (Share(3.0, 0.0), r"^--cpus_per_run 3 exceeds the largest machine of the Ray cluster \(1 CPU\): request less"),
        (Share(1.0, 0.25), r"^--gpus_per_run 0.25 exceeds .* \(0 GPU\)"),
    ],
)
def test_a_request_that_no_machine_can_meet_is_a_sentence(cluster: Any, share: Share, said: str) -> None:
    from hf_critmom.engines.ray_cluster import Cluster

    with pytest.raises(InputError, match=said):
        Cluster(None, share)


@pytest.mark.slow
def test_a_script_gives_the_same_results_on_ray(cluster: Any, tmp_path: Path, warm_python: str) -> None:
    script, arguments = write_script(tmp_path), (*ARGUMENTS, "--eval_strategy", "steps", "--eval_steps", "3")
    flags = ("--arms", "adamw", "matched", "--num_seeds", "1", "--targets", "2.7", "--threads_per_worker", "1")
    for name, engine in (("ray", ON_RAY), ("local", ())):
        own = (*flags, *engine, "--workers", "1")  # without a cadence each measures one of its own
        assert compare(warm_python, script, tmp_path / name, *own, arguments=arguments) == 0
    assert outcome(tmp_path / "ray") == outcome(tmp_path / "local") != {}
    assert all(load["node"] for load in loads(tmp_path / "ray"))

"""The Ray engine: the command assigns runs to the machines of a Ray cluster, and alone writes the experiment's folder.

A worker is a Ray actor: a process that keeps its share of a machine and its loaded data, and executes one run after
another. It trains in a temporary folder and returns the record and the files to keep, so no machine needs to see the
experiment's folder. If a machine does see it, and runs save checkpoints, the run trains in the experiment's folder:
when it is lost with its machine, it resumes elsewhere from its last checkpoint.

Each worker gets one run at a time, so waiting runs take no memory in Ray, however many there are. A run that is lost
with its process or machine is retried a limited number of times, and its record says how often.
"""

import time
import uuid
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_critmom.engines.errors import EngineError
from hf_critmom.engines.interface import Executor, Job, Load, Observer, Work, record_failure
from hf_critmom.engines.ray_cluster import Cluster, Share
from hf_critmom.engines.ray_worker import SECONDS_BETWEEN_STEPS, RunOutput, RunWorker, WorkerInfo
from hf_critmom.errors import root_message
from hf_critmom.storage.locks import LOCKS_FOLDER, try_lock
from hf_critmom.storage.run_folder import POLL_SECONDS, lock_name

MAX_RETRIES = 3
"""How often a run is retried after it was lost with its process or machine."""
MAX_FAILED_STARTS = 5
"""The command gives up when this many workers in a row have died before they were ready."""
SECONDS_WITHOUT_ROOM = 120.0
"""The command gives up when the cluster has had no room for any run for this long."""
STEP_EVENTS_PER_SECOND = 50
"""Largest number of step events per second, of all workers together."""


@dataclass
class _Worker:
    """An actor and its current run.

    Attributes:
        number: Number of the worker in events.
        actor: Handle of the actor.
        node: Name of its machine; empty until the worker is ready.
        info: Its node, device and versions; None until the worker is ready.
        job: The current run; None if the worker is idle.
        lock: Holds the lock of the run.
    """

    number: int
    actor: Any
    node: str = ""
    info: WorkerInfo | None = None
    job: Job | None = None
    lock: ExitStack | None = None

    def release(self) -> None:
        """Releases the current run and its lock."""
        if self.lock is not None:
            self.lock.close()
        self.job, self.lock = None, None


class RayEngine:
    """Executes runs on a Ray cluster.

    Args:
        address: Address of the cluster; None to start one on this machine.
        share: The share of a machine for each run.
        workers: Largest number of runs at the same time; None: as many as the cluster has room for.
        threads: Number of threads of each run.
    """

    def __init__(self, address: str | None, share: Share, workers: int | None, threads: int) -> None:
        self.address, self.share, self.max_workers, self.threads = address, share, workers, threads
        self._cluster: Cluster | None = None
        self._workers: dict[int, _Worker] = {}
        self._num_started = 0  # workers started so far
        self._failed_starts = 0
        self._queue: Any = None
        self._actor_class: Any = None
        self._token = f"ray-{uuid.uuid4().hex}"
        self._executor: tuple[Executor, Any] | None = None

    @property
    def forks(self) -> bool:
        return False

    def start(self) -> None:
        """Connects to the cluster, or starts one."""
        if self._cluster is None:
            self._cluster = Cluster(self.address, self.share)

    @property
    def cluster(self) -> Cluster:
        """The connection, which is made on first use."""
        self.start()
        assert self._cluster is not None
        return self._cluster

    def num_workers(self, num_jobs: int) -> int:
        if not num_jobs:
            return 0
        return max(1, min(num_jobs, self.cluster.room(), self.max_workers or num_jobs))

    def run(self, work: Work, observer: Observer) -> None:
        if not work.jobs:
            return
        folder = work.store.folder.absolute()
        token = folder / LOCKS_FOLDER / self._token
        token.parent.mkdir(exist_ok=True)
        token.touch()
        try:
            _Execution(self, work, folder, observer).run()
        finally:
            token.unlink(missing_ok=True)

    def close(self) -> None:
        if self._cluster is None:
            return
        for worker in [*self._workers.values()]:
            self.discard(worker)
        if self._queue is not None:
            self._queue.shutdown(force=True)
        self._cluster.close()
        self._cluster = None

    # ------------------------------------------------------------------------------------------------------- workers

    @property
    def workers(self) -> list[_Worker]:
        """The workers, including those that are starting."""
        return list(self._workers.values())

    def events(self) -> list[tuple[Any, ...]]:
        """The events that workers have sent since the last call."""
        size = 0 if self._queue is None else self._queue.qsize()
        return self._queue.get_nowait_batch(size) if size else []

    def add_worker(self, executor: Executor, folder: Path) -> _Worker:
        """Starts a worker on a machine with room for it."""
        ray = self.cluster.ray
        if self._queue is None:
            from ray.util.queue import Queue
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self._queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        if self._executor is None or self._executor[0] is not executor:
            self._executor = (executor, ray.put(executor))
        share = self.cluster.share
        if self._actor_class is None:
            self._actor_class = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus or 0, max_restarts=0)(RunWorker)
        seconds = max(SECONDS_BETWEEN_STEPS, self.cluster.room() / STEP_EVENTS_PER_SECOND)
        number, self._num_started = self._num_started, self._num_started + 1
        actor = self._actor_class.remote(
            self._executor[1],
            self.threads,
            not share.gpus,
            number,
            self._queue.actor,
            Path.cwd(),
            folder,
            self._token,
            seconds,
        )
        self._workers[number] = _Worker(number, actor)
        return self._workers[number]

    def discard(self, worker: _Worker) -> None:
        """Kills a worker, whatever it is doing."""
        worker.release()
        self._workers.pop(worker.number, None)
        self.cluster.ray.kill(worker.actor)


class _Execution:
    """A single call of `RayEngine.run`.

    Args:
        engine: The engine.
        work: The runs.
        folder: The experiment's folder, as an absolute path.
        observer: Receives the events.
    """

    def __init__(self, engine: RayEngine, work: Work, folder: Path, observer: Observer) -> None:
        self.engine, self.work, self.folder, self.observer = engine, work, folder, observer
        self.ray = engine.cluster.ray
        self.waiting = deque(work.jobs)
        self.elsewhere: deque[Job] = deque()  # runs that another launch is executing
        self.lost: Counter[Path] = Counter()  # by the run's folder
        self.finished: Counter[str] = Counter()  # by machine
        self.refused = ""
        self.refs: dict[Any, _Worker] = {}
        self.plan_ref = self.ray.put(work.plan)
        self.names: dict[str, str] = {}
        self.room = 0
        self._seconds_without_room = 0.0

    def run(self) -> None:
        """Returns when every run is finished or has failed.

        Raises:
            EngineError: If no run can be executed, or no more of them.
        """
        self.observer.workers_started()
        try:
            while True:
                self._start_workers()
                self._assign()
                self._show()
                if not any(worker.job for worker in self.engine.workers):
                    if self.refused:
                        raise EngineError(self.refused)
                    if not (self.waiting or self.elsewhere):
                        return
                self._wait()
        finally:
            for worker in self.refs.values():  # none are left unless an error occurred
                self.engine.discard(worker)
            self._forward_events()

    def _start_workers(self) -> None:
        """Starts workers as long as there are runs and room for them, also on machines that joined later."""
        self.names, self.room = self.engine.cluster.names(), self.engine.cluster.room()
        left = len(self.waiting) + sum(worker.job is not None for worker in self.engine.workers)
        wanted = min(left, self.room, self.engine.max_workers or left)
        for _ in range(wanted - len(self.engine.workers)):
            worker = self.engine.add_worker(self.work.executor, self.folder)
            self.refs[worker.actor.prepare.remote(self.plan_ref)] = worker
        if self.room or not left:
            self._seconds_without_room = 0.0
        elif self._seconds_without_room > SECONDS_WITHOUT_ROOM:
            raise EngineError(
                f"No machine of the Ray cluster has had room for a run for {SECONDS_WITHOUT_ROOM:.0f} s: repeat the "
                "command when one has; finished runs are kept."
            )
        else:
            self._seconds_without_room += POLL_SECONDS

    def _assign(self) -> None:
        """Assigns runs to idle workers; runs that other launches are executing are checked again later."""
        busy = set(map(id, self.refs.values()))
        for worker in self.engine.workers:
            if worker.info is None or id(worker) in busy:
                continue
            while self.waiting and worker.job is None:
                self._start_run(worker, self.waiting.popleft())
        if not self.waiting and self.elsewhere:
            if not any(worker.job for worker in self.engine.workers):
                self.observer.handle(0, "waiting", len(self.elsewhere))
            self.waiting, self.elsewhere = self.elsewhere, deque()

    def _start_run(self, worker: _Worker, job: Job) -> None:
        lock = ExitStack()
        if self.work.store.finished(job):
            self.observer.handle(worker.number, "finished", job.folder, True)
        elif not lock.enter_context(try_lock(self.folder, lock_name(job.folder))):
            self.elsewhere.append(job)
        else:
            worker.job, worker.lock = job, lock.pop_all()
            self.refs[worker.actor.run.remote(job, self.plan_ref)] = worker

    def _wait(self) -> None:
        """Waits until a worker is ready or returns its run, and handles what it returned."""
        if not self.refs:
            time.sleep(POLL_SECONDS)
            return
        ready, _ = self.ray.wait([*self.refs], timeout=POLL_SECONDS)
        self._forward_events()
        for ref in ready:
            worker = self.refs.pop(ref)
            try:
                returned = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                self._worker_failed(worker, error)
                continue
            if isinstance(returned, WorkerInfo):
                self._worker_ready(worker, returned)
            else:
                self._run_returned(worker, returned)

    def _worker_ready(self, worker: _Worker, info: WorkerInfo) -> None:
        self.engine._failed_starts = 0
        worker.info, worker.node = info, self.names.get(info.node, info.node)
        if info.refused:
            self._refuse(worker, info.refused)
            return
        planned = self.work.versions
        if different := [
            f"{name} {version} ({planned[name]} in the plan)"
            for name, version in info.versions.items()
            if name != "hardware" and planned.get(name, version) != version
        ]:
            self.observer.handle(worker.number, "message", f"{worker.node} has other versions: {', '.join(different)}.")

    def _run_returned(self, worker: _Worker, output: RunOutput) -> None:
        job = worker.job
        assert job is not None
        if output.refused:
            self._refuse(worker, output.refused)
            return
        if output.result is None:
            sentence = record_failure(job, self.work.store.folder, output.message, output.traceback)
            self.observer.handle(worker.number, "failed", sentence)
        else:
            for name, content in output.files.items():
                file = self.folder / job.folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.data)
            self.work.store.keep(job, output.result, self._load(worker, job))
            self.finished[worker.node] += 1
            self.observer.handle(worker.number, "finished", job.folder, False)
        worker.release()

    def _load(self, worker: _Worker, job: Job) -> Load:
        """Where a run was executed."""
        assert worker.info is not None
        share = self.engine.cluster.share
        share_of_device = min(1.0, share.gpus or share.cpus / self.engine.threads)
        workers = len(self.engine.workers)
        return Load(workers, worker.node, worker.info.device, share_of_device, self.lost[job.folder])

    def _worker_failed(self, worker: _Worker, error: Exception) -> None:
        """Handles the death of a worker: its run is retried, a limited number of times."""
        job, node = worker.job, worker.node
        self.engine.discard(worker)
        if isinstance(error, self.ray.exceptions.RayTaskError):
            raise EngineError(
                f"A worker of the Ray cluster failed ({root_message(error)}): every machine needs the same hf-critmom, "
                "and the packages that the arms and the data need."
            ) from error
        if job is None:
            self.engine._failed_starts += 1
            if self.engine._failed_starts >= MAX_FAILED_STARTS:
                raise EngineError(
                    f"{MAX_FAILED_STARTS} workers of the Ray cluster in a row died before they were ready "
                    f"({root_message(error)}): check Ray's logs, and repeat the command; finished runs are kept."
                )
            return
        self.lost[job.folder] += 1
        where = f"its process or machine ({node})"
        if self.lost[job.folder] <= MAX_RETRIES:
            self.waiting.appendleft(job)
            self.observer.worker_died(worker.number, f"{job.title} was lost with {where}, and is retried.")
        else:
            message = f"it was lost {self.lost[job.folder]} times with {where}"
            self.observer.worker_died(worker.number, f"{job.title} was lost with {where}.")
            sentence = record_failure(job, self.work.store.folder, message, str(error))
            self.observer.handle(worker.number, "failed", sentence)

    def _refuse(self, worker: _Worker, sentence: str) -> None:
        """Starts no more runs, because none can be executed, and lets the running ones finish."""
        self.refused = self.refused or f"{worker.node}: {sentence}"
        self.engine.discard(worker)
        self.waiting.clear()
        self.elsewhere.clear()

    def _forward_events(self) -> None:
        for number, kind, *content in self.engine.events():
            self.observer.handle(number, kind, *content)

    def _show(self) -> None:
        running = Counter(worker.node for worker in self.engine.workers if worker.job is not None)
        nodes = {name: (running[name], self.finished[name]) for name in sorted({*running, *self.finished})}
        self.observer.handle(0, "machines", nodes, len(self.waiting) + len(self.elsewhere))

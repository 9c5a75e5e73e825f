"""The number of cores that a process may use, by its CPU affinity and the CPU quotas of its cgroups."""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import joblib

_CGROUPS_FILE = Path("/proc/self/cgroup")
_CGROUPS_MOUNT = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """The number of cores that this process may use, by its CPU affinity and the CPU quotas of its cgroups.

    joblib reads the quota at the root of the cgroup file system, where a container sees its own. The quota of a
    service or batch job that runs outside of a container is set on a nested cgroup, which `cpu_quota` finds.
    """
    return max(1, math.ceil(min(float(joblib.cpu_count()), cpu_quota())))


def cpu_quota(groups: Path = _CGROUPS_FILE, mount: Path = _CGROUPS_MOUNT) -> float:
    """The smallest CPU quota of this process's cgroups, in cores; infinity if none has a quota.

    Args:
        groups: The file that lists the cgroups of the process.
        mount: Mount point of the cgroup file system.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return math.inf
    return min((quota for line in lines for quota in _quotas(line, mount)), default=math.inf)


def _quotas(line: str, mount: Path) -> Iterator[float]:
    """The quotas of the cgroup in a line of ``/proc/self/cgroup``, and of its ancestors."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    roots = (controllers, "cpu") if controllers else ("", "unified")
    group = PurePosixPath(path).relative_to("/")
    for root in dict.fromkeys(roots):
        for one in (group, *group.parents):
            for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # cgroup v2, v1
                if (quota := _read(*(mount / root / one / name for name in names))) is not None:
                    yield quota


def _read(*files: Path) -> float | None:
    """A quota in cores; None if there is none."""
    try:
        quota, period = map(float, " ".join(file.read_text() for file in files).split())
    except (OSError, ValueError):  # missing, or "max"
        return None
    return quota / period if quota > 0.0 < period else None

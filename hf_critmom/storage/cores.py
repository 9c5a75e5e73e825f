"""How many cores a process may use: its affinity, and the CPU quotas of its control groups."""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import joblib

_GROUPS = Path("/proc/self/cgroup")
_CONTROL = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: its CPU affinity and the quotas of its control groups are respected.

    joblib knows of the quota that a container shows at the root of its control groups; those of a service or job of the
    machine itself lie deeper.
    """
    return max(1, math.ceil(min(float(joblib.cpu_count()), cpu_quota())))


def cpu_quota(groups: Path = _GROUPS, control: Path = _CONTROL) -> float:
    """Cores that the control groups of this process allow it, the narrowest of them; infinite where none does.

    Args:
        groups: The file that lists its groups.
        control: Where the file system of control groups is mounted.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return math.inf
    return min((quota for line in lines for quota in _quotas(line, control)), default=math.inf)


def _quotas(line: str, control: Path) -> Iterator[float]:
    """The quotas that a line of the file of groups leads to: of the group, and of those that it lies in."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    roots = (controllers, "cpu") if controllers else ("", "unified")
    group = PurePosixPath(path).relative_to("/")
    for root in dict.fromkeys(roots):
        for one in (group, *group.parents):
            folder = control / root / one
            if (quota := _read(folder / "cpu.max")) is not None or (
                quota := _read(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
            ) is not None:  # version 2
                yield quota


def _read(*files: Path) -> float | None:
    """A quota in cores; None where there is none."""
    try:
        quota, period = map(float, " ".join(file.read_text() for file in files).split())
    except (OSError, ValueError):  # not there, or "max"
        return None
    return quota / period if quota > 0.0 < period else None

"""Claims about cores: cgroup quotas count, in both versions and anywhere in the hierarchy."""

import math
from pathlib import Path

import pytest

from hf_critmom.storage.cores import cpu_quota, usable_cores


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    {
        "version 2": ("0::/jobs/one", {"jobs/one/cpu.max": "150000 100000"}, 1.5),
        "none": ("0::/jobs/one", {"jobs/one/cpu.max": "max 100000"}, math.inf),
        "of the group around it": (
            "0::/jobs/one",
            {"jobs/one/cpu.max": "max 100000", "jobs/cpu.max": "100000 100000"},
            1.0,
        ),
        "version 1": (
            "3:cpu,cpuacct:/box",
            {"cpu,cpuacct/box/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/box/cpu.cfs_period_us": "100000\n"},
            2.0,
        ),
        "version 1 under its short name": (
            "3:cpu,cpuacct:/",
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        "version 1 without": (
            "1:cpu:/box",
            {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"},
            math.inf,
        ),
        "another controller": ("4:memory:/box", {"memory/box/cpu.max": "100000 100000"}, math.inf),
    }.values(),
)
def test_the_smallest_quota_counts(line: str, files: dict[str, str], expected: float, tmp_path: Path) -> None:
    (tmp_path / "groups").write_text(f"9:name=systemd:/\n{line}\n")
    for name, content in files.items():
        (tmp_path / "control" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "control" / name).write_text(content)
    assert cpu_quota(tmp_path / "groups", tmp_path / "control") == expected


def test_a_system_without_cgroups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "missing", tmp_path) == math.inf and usable_cores() >= 1

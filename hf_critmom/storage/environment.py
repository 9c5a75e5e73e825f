"""The environment that a result was computed in: versions of the libraries, and the hardware."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch
from accelerate import PartialState


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on, and the hardware."""
    names = ("hf-critmom", "transformers", "accelerate", "torch", "timm", "datasets")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **found, "hardware": hardware()}


def device_name() -> str:
    """The device that this process trains on: the GPU's name, or the device type."""
    device = PartialState().device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)


def hardware() -> str:
    """The GPUs or CPU cores that train, as a phrase for cards."""
    if PartialState().device.type == "cuda":  # not merely present: --use_cpu leaves it idle
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    limited = "" if threads == cores else f", {threads} thread{'s' if threads > 1 else ''} per process"
    return f"{cores} CPU cores ({_processor()}{limited})"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

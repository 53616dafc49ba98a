"""The processor: what it is, and how many of its cores this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """Cores of the machine, less those that the system keeps from this process, as ``taskset`` and containers do."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The model of the processor, e.g. ``AMD EPYC 7B13 (cpu family 25, model 1)``: its seconds are not those of another one."""
    model = system_value("/proc/cpuinfo", "model name")
    if not model:
        return platform.processor() or platform.machine()
    details = (f"{key} {system_value('/proc/cpuinfo', key)}" for key in ("cpu family", "model"))
    return f"{model} ({', '.join(details)})"


def system_value(path: str, name: str) -> str:
    """The value after ``name`` in a file of ``name : value`` lines such as ``/proc/cpuinfo``, or nothing."""
    lines = (line.partition(":") for line in system_text(path).splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def system_text(path: str) -> str:
    """What a file of the system says, or nothing if it is not there."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sparse_offline_rl.cores import processor_name, system_text, system_value

_PACKAGES = ("sparse-offline-rl", "torch", "numpy", "numba", "scipy", "onnxruntime", "gymnasium", "mujoco")


def describe_machine() -> dict[str, str]:
    """CPU, cores, caches, memory, system and versions, each as one readable value."""
    facts = {
        "CPU": processor_name(),
        "cores": f"{len(cores())} for this process, {os.cpu_count()} in all",
        "vector units": _vector_units(),
        "caches": _caches(),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    facts |= {name: package_version(name) or "not installed" for name in _PACKAGES}
    return {name: value for name, value in facts.items() if value}


def cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def load() -> float | None:
    """Processes that were running on average over the last minute: 0 on a quiet machine."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def package_version(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _vector_units() -> str:
    flags = system_value("/proc/cpuinfo", "flags").split()
    return " ".join(flag for flag in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags)


def _caches() -> str:
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    parts = [(system_text(f"{f}/level"), system_text(f"{f}/type"), system_text(f"{f}/size")) for f in folders]
    return ", ".join(f"L{level}{kind[0].lower() if level == '1' else ''} {size}" for level, kind, size in parts if kind)


def _memory() -> str:
    kilobytes = system_value("/proc/meminfo", "MemTotal").removesuffix(" kB")
    return f"{int(kilobytes) / 2**20:.0f} GiB" if kilobytes else ""

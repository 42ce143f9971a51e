"""What a server needs of the machine: Python, a build of llama.cpp, cores, memory, a disk."""

import os
import platform
import shutil
import stat
import sys
from pathlib import Path

from ds4trio.cache.disk import default_directory
from ds4trio.config import Settings, usable_cores
from ds4trio.doctor.findings import Finding, ok, problem, size, warning
from ds4trio.doctor.rehearsal import Rehearsal

__all__ = ["available_memory", "compiler", "disk", "llama", "python", "threads"]

LEAST_PYTHON = (3, 11)
COMPILERS = ("c++", "g++", "clang++")
# What /proc/cpuinfo calls a feature, and llama.cpp: each of these makes a prompt's computation faster by a good part.
FAST = {"avx": "AVX", "avx2": "AVX2", "f16c": "F16C", "fma": "FMA", "avx512f": "AVX512"}
REBUILD = "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
CGROUP = Path("/sys/fs/cgroup")
LEAST_DISK = 2**30


def python() -> Finding:
    """The interpreter's version."""
    said = f"{platform.python_version()} ({sys.platform}, {platform.machine()})"
    if sys.version_info < LEAST_PYTHON:
        return problem("python", said, "install Python 3.11 or newer")
    if sys.platform not in ("linux", "darwin"):
        return warning("python", said, "only Linux and macOS are supported")
    return ok("python", said)


def llama(told: Rehearsal) -> Finding:
    """Whether llama.cpp can be used, and whether it uses what the processor has."""
    if (found := told.build) is None:
        why = told.failure.problem if told.failure else "it says nothing"
        return problem("llama.cpp", f"cannot be used: {why}", "pip install 'llama-cpp-python>=0.3.36,<0.4'")
    said = f"llama-cpp-python {found.version}, {'GPU offload' if found.gpu else 'CPU only'}: {' '.join(found.features)}"
    unused = [ours for theirs, ours in FAST.items() if theirs in _cpu_flags() and ours not in found.features]
    if unused:
        return warning("llama.cpp", f"{said}; built without {', '.join(unused)}, which this processor has", REBUILD)
    return ok("llama.cpp", said)


def compiler(*, built: bool) -> Finding:
    """A compiler is needed once, for llama.cpp."""
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found or built:
        return ok("compiler", found or "none, and none is needed: llama.cpp is built")
    return problem("compiler", "none, and llama.cpp is to be built", "install a C++ compiler (Debian: apt install g++)")


def threads(settings: Settings) -> Finding:
    """Compute threads wait for each other at every step, so more of them than cores are slow."""
    cores, quota = usable_cores(), _cpu_quota()
    most = cores if quota is None else max(1, min(cores, int(quota)))
    wanted = settings.threads or cores
    said = f"{wanted} compute threads, {cores} usable cores"
    if quota is not None and quota < cores:
        said += f", of which this container may use {quota:g}"
    if wanted > most:
        return warning("threads", said, f"start with --threads {most}: more than there are cores make each other wait")
    return ok("threads", said)


def disk(settings: Settings) -> Finding:
    """Whether KV can be kept on disk."""
    if not settings.kv_disk:
        return warning("disk", "nothing is kept on disk (--no-kv-disk)", "leave that out to keep prompts over restarts")
    directory = Path(settings.kv_disk_dir) if settings.kv_disk_dir else default_directory()
    wanted = settings.kv_disk_space_mb * 2**20
    elsewhere = "give another one with --kv-disk-dir, or --no-kv-disk"
    try:
        there = next(place for place in (directory, *directory.absolute().parents) if place.exists())
        if not there.is_dir():
            return problem("disk", f"{there} is no directory", elsewhere)
        if not os.access(there, os.W_OK | os.X_OK):
            return problem("disk", f"{there} cannot be written to, so no KV is kept", elsewhere)
        free = shutil.disk_usage(there).free
        taken = sum(map(_length, directory.rglob("*")))
    except (OSError, ValueError) as error:
        return problem("disk", f"{directory} cannot be looked at ({error}), so no KV is kept", elsewhere)
    said = f"{directory}: {size(free)} free, {size(taken)} of {size(wanted)} taken"
    if free < LEAST_DISK and taken < wanted:
        return warning("disk", said, f"make room, or {elsewhere}")
    if free + taken < wanted:
        return warning("disk", said, f"lower --kv-disk-space-mb to {int((free + taken) * 0.8) // 2**20} or less")
    return ok("disk", said)


def _length(path: Path) -> int:
    """Bytes of a file, none of anything else; a server that runs may have removed it since it was listed."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def available_memory() -> int:
    """Bytes that a new process can have: of the machine's and of the container's, whichever is less.

    On macOS all that the machine has.
    """
    machine = _meminfo() or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used, cached = (_number(CGROUP / name) for name in ("memory.max", "memory.current", "memory.stat"))
    if limit is None or used is None:
        return machine
    return max(0, min(machine, limit - used + (cached or 0)))


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _number(path: Path) -> int | None:
    """A cgroup's figure; of ``memory.stat``, the pages of files that can be given up."""
    try:
        text = path.read_text()
        if path.name == "memory.stat":
            text = next(line.split()[1] for line in text.splitlines() if line.startswith("inactive_file "))
        return int(text)
    except (OSError, ValueError, StopIteration):  # no cgroup of version 2, or no limit ("max")
        return None


def _cpu_quota() -> float | None:
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())

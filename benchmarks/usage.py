"""What processes take of the machine, by /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
KIB = 1024
PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """Of a broker's processes together, until now."""

    cpu_seconds: float = 0.0
    rss_bytes: int = 0
    rss_peak_bytes: int = 0


def usage_of_family(ancestor: int) -> Usage:
    """Of a process and all that descend from it: RabbitMQ is a virtual machine and small programs beside it,
    some of which start sessions of their own."""
    stats = {int(path.name): _stat(path) for path in PROC.iterdir() if path.name.isdigit()}
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
    family = [ancestor] if stats.get(ancestor) else []
    for pid in family:  # which grows meanwhile
        family += children.get(pid, [])
    cpu_ticks = sum(int(stats[pid][11]) + int(stats[pid][12]) for pid in family)  # utime, stime
    return Usage(
        cpu_ticks / CLOCK_TICKS,
        sum(_status_bytes(PROC / str(pid), "VmRSS") for pid in family),
        sum(_status_bytes(PROC / str(pid), "VmHWM") for pid in family),
    )


def _stat(process: Path) -> list[str]:
    """The fields of /proc/PID/stat that follow the name of the program; empty for a process that is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _status_bytes(process: Path, name: str) -> int:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * KIB
    return 0  # a zombie

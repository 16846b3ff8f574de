"""What processes take of the machine, by /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
KIB = 1024


@dataclass(frozen=True)
class Usage:
    """Of a broker's processes together, until now."""

    cpu_seconds: float = 0.0
    rss_bytes: int = 0
    rss_peak_bytes: int = 0


def usage_of_session(leader: int) -> Usage:
    """Of all processes in the session of this one, which a process started as its leader shares with
    everything that it starts: RabbitMQ is a virtual machine and some small programs beside it."""
    cpu_ticks = rss = rss_peak = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        fields = _stat(process)
        if fields and int(fields[3]) == leader:
            cpu_ticks += int(fields[11]) + int(fields[12])  # utime, stime
            rss += _status_bytes(process, "VmRSS")
            rss_peak += _status_bytes(process, "VmHWM")
    return Usage(cpu_ticks / CLOCK_TICKS, rss, rss_peak)


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

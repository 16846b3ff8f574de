"""`python -m benchmarks` is `leveret bench`."""

from .command import bench
from .program import run_program

run_program(bench, "python -m benchmarks")

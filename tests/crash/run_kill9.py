"""kill -9 as often as one likes: `python tests/crash/run_kill9.py --cycles 1000`. Prints counts to publish.

The experiment begins anew on an empty directory every 50 cycles, with the seed one higher. A bad one stops
the run and leaves its data directory, the broker's log and the history (for checker.py) behind.
"""

import argparse
import logging
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from kill9 import run  # found through the line above

CYCLES_PER_EXPERIMENT = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--directory", type=Path, help="where to keep the data (a real disk)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the SDK reports every connection that the broker takes with it
    totals: Counter[str] = Counter()
    done = 0
    while done < options.cycles:
        cycles = min(CYCLES_PER_EXPERIMENT, options.cycles - done)
        directory = Path(tempfile.mkdtemp(prefix="leveret-kill9-", dir=options.directory))
        outcome = run(directory, cycles, options.seed)
        print(outcome, flush=True)
        if not outcome.ok:
            print(f"FAILED; everything is kept in {directory}")
            return 1
        shutil.rmtree(directory)
        totals += outcome.deaths + outcome.report.counts
        done += cycles
        options.seed += 1
    print("total:", ", ".join(f"{name} {count}" for name, count in totals.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

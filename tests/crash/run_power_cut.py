"""Cut the power as often as one likes: `python tests/crash/run_power_cut.py --power-cuts 10000`.

The experiment begins anew on an empty directory every 400 power cuts, with the seed one higher. A bad one
stops the run and leaves some of the bad disks behind, each with its history (for checker.py).
"""

import argparse
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from power_cut import BROKER, UNSYNCED_BROKER, run  # found through the line above

PER_EXPERIMENT = 400


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--power-cuts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="disks judged at a time")
    parser.add_argument("--directory", type=Path, help="where to keep the data (a real disk)")
    parser.add_argument("--unsynced", action="store_true", help="a broker that never syncs, which must fail")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the SDK reports every connection that the broker takes with it
    totals: Counter[str] = Counter()
    done = 0
    started_s = time.monotonic()
    while done < options.power_cuts:
        count = min(PER_EXPERIMENT, options.power_cuts - done)
        directory = Path(tempfile.mkdtemp(prefix="leveret-power-cut-", dir=options.directory))
        broker = UNSYNCED_BROKER if options.unsynced else BROKER
        outcome = run(directory, count, options.seed, jobs=options.jobs, broker=broker)
        print(f"{outcome}\n{time.monotonic() - started_s:.0f} s", flush=True)
        if not outcome.ok:
            print(f"FAILED; what is left is in {directory}")
            return 1
        shutil.rmtree(directory)
        totals += outcome.counts
        done += count
        options.seed += 1
    print(f"total: {done} power cuts,", ", ".join(f"{name} {count}" for name, count in totals.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

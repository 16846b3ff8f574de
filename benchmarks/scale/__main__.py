"""`python -m benchmarks.scale`: see ../README.md."""

import sys

from .command import main

sys.exit(main())

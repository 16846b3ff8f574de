"""`python -m benchmarks`: see README.md."""

import sys

from .compare import main

sys.exit(main())

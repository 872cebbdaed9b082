"""``python -m umamba2`` is the command line."""

import sys

from umamba2.cli import main

if __name__ == "__main__":
    sys.exit(main())

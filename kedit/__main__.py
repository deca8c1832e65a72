"""`python -m kedit` is the `kedit` command."""

import sys

from kedit.cli import main

if __name__ == "__main__":
    sys.exit(main())

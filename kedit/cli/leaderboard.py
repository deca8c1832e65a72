"""The leaderboard of a finished, failed or killed sweep, made again from its job folders.

kedit leaderboard multirun/2026-11-22/10-00-00
"""

import sys

from kedit.cli.errors import usage_code
from kedit.cli.sweeping.summary import terminal, written


def main() -> int:
    """Write and print the leaderboard of each folder on the command line."""
    folders = sys.argv[1:]
    if (code := usage_code("kedit leaderboard FOLDER [FOLDER ...]", folders)) is not None:
        return code
    complete = True
    for folder in folders:
        try:
            board = written(folder)
        except (OSError, ValueError) as error:
            sys.stderr.write(f"kedit: {error}\n")
            return 2
        terminal(board)
        complete = complete and board.complete
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())

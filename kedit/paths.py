"""Where the configuration lies: in a checkout, or inside an installed wheel."""

from pathlib import Path


def conf_dir() -> Path:
    """Return the folder of the configuration groups, whose primary file is `run.yaml`.

    A checkout is tried first, so that an editable install reads the files that are being edited; a wheel carries them
    in `kedit/conf`.

    Raises:
        FileNotFoundError: Neither place has a `run.yaml`.
    """
    package = Path(__file__).resolve().parent
    checkout, shipped = package.parent / "conf", package / "conf"
    # Another project's `conf` beside an installed kedit must not pass for ours, hence the second file.
    if (package.parent / "pyproject.toml").is_file() and (checkout / "run.yaml").is_file():
        return checkout
    if (shipped / "run.yaml").is_file():
        return shipped
    raise FileNotFoundError(
        f"no `run.yaml` in the checkout's `{checkout}` nor in the wheel's `{shipped}`; reinstall kedit"
    )

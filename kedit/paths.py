"""Where the recipes and their configuration lie: in a checkout, or inside an installed wheel."""

from pathlib import Path


def home() -> Path:
    """Return the folder that holds `conf/` and `experiments/`.

    A checkout is tried first, so that an editable install reads the files that are being edited; a wheel
    carries both folders in `kedit/_shipped`.

    Raises:
        FileNotFoundError: Neither place has a `conf/run.yaml`.
    """
    package = Path(__file__).resolve().parent
    checkout, shipped = package.parent, package / "_shipped"
    # Another project's `conf` beside an installed kedit must not pass for ours, hence the second file.
    if (checkout / "pyproject.toml").is_file() and (checkout / "conf" / "run.yaml").is_file():
        return checkout
    if (shipped / "conf" / "run.yaml").is_file():
        return shipped
    raise FileNotFoundError(
        f"no `conf/run.yaml` in the checkout `{checkout}` nor in the wheel's `{shipped}`; reinstall kedit"
    )


def conf_dir() -> Path:
    """Return the folder of the configuration groups, whose primary file is `run.yaml`."""
    return home() / "conf"

"""Composing jobs from one another: what comes out is what Hydra makes, or Hydra makes it."""

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.composing import Composer
from kedit.paths import conf_dir

DIFFERENCE, RATIO = "locate.stages.difference.select.q", "locate.stages.gradcam.select.of_max"


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture
def master(loader: ConfigLoader) -> DictConfig:
    return loader.load_configuration("run", ["experiment=thresholds"], RunMode.MULTIRUN)


class Counting:
    """Hydra's loader, counting how often it composes."""

    def __init__(self, loader: ConfigLoader) -> None:
        self.loader, self.n_times = loader, 0

    def load_sweep_config(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        self.n_times += 1
        return self.loader.load_sweep_config(master, overrides)

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)


def job(*words: str, number: int = 0) -> list[str]:
    return ["experiment=thresholds", *words, "hydra.sweep.dir='a b'", f"hydra.sweep.subdir={number}"]


def test_jobs_that_differ_in_values_are_equal_to_hydras_own(loader: ConfigLoader, master: DictConfig) -> None:
    counting = Counting(loader)
    composer = Composer(counting)  # type: ignore[arg-type]
    composer.load_sweep_config(master, job(f"{DIFFERENCE}=0.5", f"{RATIO}=0.1", "concept=star"))
    jobs = [
        job(f"{DIFFERENCE}=0.9", f"{RATIO}=0.1", "concept=star", number=1),
        job(f"{DIFFERENCE}=0.9", f"{RATIO}=null", "concept=house", number=2),
        job(f"{DIFFERENCE}=1", f"{RATIO}=0.3", "concept='hot dog'", number=3),
    ]
    made = [composer.load_sweep_config(master, one) for one in jobs]
    assert counting.n_times == 1
    for one, found in zip(jobs, made, strict=True):
        real = loader.load_sweep_config(master, one)
        assert found == real
        assert found.hydra == real.hydra
        assert found.hydra.job.override_dirname == real.hydra.job.override_dirname
        assert list(found.hydra.overrides.task) == list(real.hydra.overrides.task)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["edit=zero"], ["edit=scale"]),
        (["+new=1"], ["+new=2"]),
        (["locate.stages.difference.select={q: 0.5}"], ["locate.stages.difference.select={at_most: 3}"]),
    ],
    ids=["a group", "a new key", "a part"],
)
def test_what_is_more_than_a_value_is_composed_by_hydra(
    loader: ConfigLoader, master: DictConfig, one: list[str], other: list[str]
) -> None:
    composer = Composer(loader)
    for words in (one, other):
        assert composer.load_sweep_config(master, job(*words)) == loader.load_sweep_config(master, job(*words))


def test_a_value_that_another_override_undoes_is_found_out(loader: ConfigLoader, master: DictConfig) -> None:
    composer, undone = Composer(loader), "locate.stages.difference.select={q: 0.1}"
    assert composer.agrees(master, job(f"{DIFFERENCE}=0.5", undone))
    assert not composer.agrees(master, job(f"{DIFFERENCE}=0.9", undone))


def test_a_key_that_is_not_there_is_refused_as_hydra_refuses_it(loader: ConfigLoader, master: DictConfig) -> None:
    composer = Composer(loader)
    for _ in range(2):
        with pytest.raises(ConfigCompositionException):
            composer.agrees(master, job("locate.stages.nowhere.q=1"))


def test_no_job_sees_what_another_does_to_its_configuration(loader: ConfigLoader, master: DictConfig) -> None:
    composer = Composer(loader)
    for number in range(3):
        found = composer.load_sweep_config(master, job(f"{DIFFERENCE}=0.{number + 1}"))
        assert found.concept == "star"
        found.concept = "spoiled"

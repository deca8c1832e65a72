"""The doctor finds nothing wrong with any family that kedit can build."""

import pytest

from kedit.doctor.diagnose import CHECKS, diagnose
from kedit.models.tiny.families import FAMILIES, tiny

DEGRADED = {"blip2_t5": {"positions"}}
"""What cannot be measured: its decoder's input has other positions than the prompt."""


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_check_that_applies_to_a_family_supports_it(family: str) -> None:
    # `compiled` says what torch does, whatever the family, and takes longer than all others together.
    found = diagnose(tiny(family), [name for name in CHECKS if name != "compiled"])
    assert found.sound
    amiss = {name for name, one in found.findings.items() if one.status not in ("SUPPORTED", "NOT_APPLICABLE")}
    assert amiss == DEGRADED.get(family, set())

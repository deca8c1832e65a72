"""Whether a prompt says the same alone and padded among others."""

from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, at_most
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.models.mllm import PADDING


def padding(under_test: ModelUnderTest) -> Finding:
    """Read each prompt in a batch of its own and in the padded batch, and compare the logits."""
    batch = under_test.batch
    padded = (batch.token_types == PADDING).sum(1).tolist()
    if not any(padded):
        return Finding(
            "DEGRADED", f"the two prompts have {batch.token_types.shape[1]} positions each, so none was padded"
        )
    gaps = [
        gap(under_test.logits(under_test.row(number))[0], under_test.plain[number]) for number in range(len(padded))
    ]
    return at_most(
        max(gaps), under_test.tolerance, f"logits changed by {max(padded)} columns of padding, {SHARE}",
        "a prompt gives other logits padded than alone: use `batch_size=1`, or look for an ignored attention mask",
    )  # fmt: skip

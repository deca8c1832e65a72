"""Whether a prompt says the same alone and padded among others."""

from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, at_most
from kedit.doctor.patient import Patient
from kedit.models.mllm import PADDING


def padding(patient: Patient) -> Finding:
    """Read each prompt in a batch of its own and in the padded batch, and compare the logits."""
    batch = patient.batch
    padded = (batch.kinds == PADDING).sum(1).tolist()
    if not any(padded):
        return Finding("DEGRADED", f"the two prompts have {batch.kinds.shape[1]} positions each, so none was padded")
    gaps = [gap(patient.logits(patient.row(number))[0], patient.plain[number]) for number in range(len(padded))]
    return at_most(
        max(gaps), patient.tolerance, f"logits changed by {max(padded)} columns of padding, {SHARE}",
        "a prompt gives other logits padded than alone: use `batch_size=1`, or look for an ignored attention mask",
    )  # fmt: skip

"""What a modality's neurons do on prompts of any medium: one forward each, no counterfactual and no target."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from kedit.internals.hooks import intervene
from kedit.internals.sites import Site
from kedit.locate.evidence import SAMPLES_AT_ONCE, watched
from kedit.locate.modality_importance import Importances
from kedit.locate.scorer import LayerEvidence
from kedit.locate.scoring import Tally, stacked_batch
from kedit.models.attention import Attention
from kedit.models.mllm import MLLM, TeacherForced
from kedit.progress import Batched
from kedit.prompts import Prompt, batches
from kedit.samples import Progress, silent


def over_prompts(
    model: MLLM, site: Site, prompts: Sequence[Prompt], scorer: Importances, progress: Progress = silent
) -> Tally:
    """Return what `scorer` makes of the prompts together; those of one medium are read in batches."""
    made = Tally.of(scorer)
    chunks = batches(prompts, model.batch_size)
    for chunk in progress(Batched(chunks, [*map(len, chunks)], "questions"), len(chunks), "locate"):
        some = [prompts[place] for place in chunk]
        layers = _layers(model, site, model.read(some, [()] * len(some)), scorer)
        made.n_invalid += sum(int(layer.isnan().sum()) for layer in layers)
        made.sums.add(scorer.across_layers(stacked_batch(layers)))
    return made


@torch.no_grad()
def _layers(model: MLLM, site: Site, batch: TeacherForced, scorer: Importances) -> list[Tensor]:
    """Return the figures of each layer, made while the model runs, so that no layer's activations are kept."""
    found: dict[int, Tensor] = {}

    def seen(layer: int, attention: dict[int, Attention]) -> Callable[[Tensor], None]:
        def see(activation: Tensor) -> None:
            pieces = _pieces(layer, activation, attention.pop(layer, None), batch)
            found[layer] = torch.cat([scorer.score(piece).float().cpu() for piece in pieces])

        return see

    with watched(model.module, scorer.needs) as attention:
        watching = {layer: seen(layer, attention) for layer in site.blocks}
        with intervene(model.module, site, watching, label="locate"):
            model.logits(batch)
    return [found[layer] for layer in site.blocks]


def _pieces(
    layer: int, activation: Tensor, attention: Attention | None, batch: TeacherForced
) -> Iterator[LayerEvidence]:
    """Yield a layer's evidence a few samples at a time; some models flatten batch and positions."""
    values = activation.detach().reshape(*batch.token_types.shape, -1)
    for start in range(0, len(values), SAMPLES_AT_ONCE):
        rows = slice(start, start + SAMPLES_AT_ONCE)
        yield LayerEvidence(
            layer,
            batch.token_types[rows],
            values[rows].float(),
            attention=None if attention is None else attention.rows(rows),
            modalities=batch.modalities[rows],
            prompt=batch.prompt[rows],
        )

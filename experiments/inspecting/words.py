"""What the located neurons say: their decoded words, and how those fit the captions and the pictures."""

from collections.abc import Sequence

from experiments.inspecting.rows import Row, Subject
from kedit.evaluation.bertscore import bert_scores
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.inspection.decode import Decoded, decode, decoding_rows
from kedit.models.encoder import OwnLayers
from kedit.neurons import NeuronSet
from kedit.reports import markdown_table

SECTION = "words"
NAMES = ("decodes to the concept", "BERTScore with captions")
CLIP = "CLIPScore with pictures"
AT_MOST = 60
"""Random neurons whose words are compared with texts and pictures."""


def words(subject: Subject) -> list[Row]:
    """Decode every located neuron, write decode.json and decode.md, and compare with random neurons."""
    decoded = decode(subject.model, subject.neurons, subject.asked.words)
    header, rows = decoding_rows(decoded, shown=8)
    note = f"The words that the neurons of `{subject.concept.name}` raise most; the strongest first."
    subject.kept.save_text("decode.md", f"{note}\n\n{markdown_table(header, rows)}\n")
    subject.kept.save_json("decode.json", [one.to_json() for one in decoded])
    if not decoded:
        raise ValueError("no neuron was located")
    drawn = tuple(dict.fromkeys(one for control in subject.controls for one in control))
    random = decode(subject.model, NeuronSet(drawn, subject.site.name), subject.asked.words)
    hits, misses = (bootstrap_mean([float(one.names(subject.concept)) for one in many]) for many in (decoded, random))
    some = random[:: max(1, len(random) // AT_MOST)]
    return [
        Row(SECTION, NAMES[0], hits, misses),
        Row(SECTION, NAMES[1], _relevance(subject, decoded), _relevance(subject, some)),
        _clip_row(subject, decoded, some),
    ]


def _relevance(subject: Subject, decoded: Sequence[Decoded]) -> Measured:
    """Return how alike a neuron's words and the model's captions are, over neurons (Fang et al. 2024, NAM)."""
    captions = sorted({caption.text for caption in subject.captions})
    texts = [" ".join(one.words) for one in decoded]
    encoder = subject.encoder or OwnLayers(subject.model)  # type: ignore[arg-type]
    pairs = [(text, caption) for text in texts for caption in captions]
    scores = [match.f1 for match in bert_scores(encoder, [text for text, _ in pairs], [one for _, one in pairs])]
    n = len(captions)
    means = [sum(scores[start : start + n]) / n for start in range(0, len(scores), n)]
    return bootstrap_mean(means, seed=subject.seed)


def _clip_row(subject: Subject, decoded: Sequence[Decoded], random: Sequence[Decoded]) -> Row:
    if subject.clip is None:
        why = "no CLIP model; set `clip` to {_target_: kedit.models.clip_score.ClipScore, path: FOLDER}"
        return Row(SECTION, CLIP, Measured.missing(why))
    images = [pair.sample.image for pair in subject.pairs]

    def mean(many: Sequence[Decoded]) -> Measured:
        scores = subject.clip([" ".join(one.words) for one in many], images)
        return bootstrap_mean([sum(row) / len(row) for row in scores], seed=subject.seed)

    return Row(SECTION, CLIP, mean(decoded), mean(random))

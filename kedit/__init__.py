"""Find the neurons in which a multimodal language model keeps a concept, edit them, and prove what the edit did."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedit.data.coco import Coco
    from kedit.data.folder import Folder
    from kedit.data.inpaint import Exact, MeanFill
    from kedit.data.prompts import Prompts
    from kedit.data.scenes import Scenes
    from kedit.doctor.diagnose import diagnose
    from kedit.edit.delta import apply_delta, revert_delta
    from kedit.edit.edit import Edit
    from kedit.edit.operators import Patch, Scale, Zero, amplify
    from kedit.edit.relearning import Lessons
    from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
    from kedit.evaluation.measure import measure
    from kedit.evaluation.metrics import Similarity
    from kedit.locate.activation import Activation
    from kedit.locate.causal_effect import CausalEffect
    from kedit.locate.contribution import Contribution
    from kedit.locate.difference import ActivationDifference
    from kedit.locate.domain_entropy import DomainEntropy
    from kedit.locate.drawn import NAMImage
    from kedit.locate.gradcam import GradCAM
    from kedit.locate.gradient import Gradient
    from kedit.locate.knowledge_neurons import KnowledgeNeurons
    from kedit.locate.locator import Locator, Stage
    from kedit.locate.miner import Miner
    from kedit.locate.nam import NAM
    from kedit.locate.reduction import Vote
    from kedit.locate.selection import Quantile, RatioOfMax, TopK
    from kedit.locate.two_stage import two_stage
    from kedit.models.drawing import drawer
    from kedit.models.huggingface import HuggingFaceMLLM
    from kedit.models.loading import load, wrap
    from kedit.neurons import NeuronSet
    from kedit.pipelines.compare import compare
    from kedit.pipelines.comparison.choices import Method
    from kedit.pipelines.comparison.planted import PlantedBenchmark, rank_planted
    from kedit.pipelines.comparison.result import Comparison
    from kedit.pipelines.draw import DrawResult, draw
    from kedit.pipelines.evaluate import Evaluation, evaluate
    from kedit.pipelines.export import Exported, export
    from kedit.pipelines.folder_check import FolderCheck, check_folder
    from kedit.pipelines.gone import Gone, gone
    from kedit.pipelines.inspect import Inspection, inspect
    from kedit.pipelines.locate import LocateResult, locate_neurons
    from kedit.pipelines.preparation import Counts
    from kedit.pipelines.run import RunResult, run
    from kedit.pipelines.subject import Looks
    from kedit.pipelines.sweep import SweepResult, sweep
    from kedit.pipelines.task import TaskResult, task
    from kedit.samples import Concept, Counterfactual, Question, Sample

__version__ = "0.7.0"

# Public names are fetched on first use: whoever imports one module, or asks the command for help, does not wait
# for torch.
_HOMES = {
    "Activation": "kedit.locate.activation",
    "ActivationDifference": "kedit.locate.difference",
    "CausalEffect": "kedit.locate.causal_effect",
    "Coco": "kedit.data.coco",
    "Comparison": "kedit.pipelines.comparison.result",
    "Concept": "kedit.samples",
    "Contribution": "kedit.locate.contribution",
    "Counterfactual": "kedit.samples",
    "Counts": "kedit.pipelines.preparation",
    "DomainEntropy": "kedit.locate.domain_entropy",
    "DrawResult": "kedit.pipelines.draw",
    "Edit": "kedit.edit.edit",
    "Evaluation": "kedit.pipelines.evaluate",
    "Exact": "kedit.data.inpaint",
    "EvaluationSet": "kedit.evaluation.evaluation_set",
    "Exported": "kedit.pipelines.export",
    "Folder": "kedit.data.folder",
    "Gone": "kedit.pipelines.gone",
    "Lessons": "kedit.edit.relearning",
    "FolderCheck": "kedit.pipelines.folder_check",
    "GradCAM": "kedit.locate.gradcam",
    "Gradient": "kedit.locate.gradient",
    "HuggingFaceMLLM": "kedit.models.huggingface",
    "Inspection": "kedit.pipelines.inspect",
    "KnowledgeNeurons": "kedit.locate.knowledge_neurons",
    "LocateResult": "kedit.pipelines.locate",
    "Locator": "kedit.locate.locator",
    "Looks": "kedit.pipelines.subject",
    "MeanFill": "kedit.data.inpaint",
    "Method": "kedit.pipelines.comparison.choices",
    "Miner": "kedit.locate.miner",
    "NAM": "kedit.locate.nam",
    "NAMImage": "kedit.locate.drawn",
    "NeuronSet": "kedit.neurons",
    "Patch": "kedit.edit.operators",
    "PlantedBenchmark": "kedit.pipelines.comparison.planted",
    "Prompts": "kedit.data.prompts",
    "Quantile": "kedit.locate.selection",
    "Question": "kedit.samples",
    "RatioOfMax": "kedit.locate.selection",
    "RunResult": "kedit.pipelines.run",
    "Sample": "kedit.samples",
    "Scale": "kedit.edit.operators",
    "Scenes": "kedit.data.scenes",
    "Similarity": "kedit.evaluation.metrics",
    "Stage": "kedit.locate.locator",
    "SweepResult": "kedit.pipelines.sweep",
    "TaskResult": "kedit.pipelines.task",
    "TopK": "kedit.locate.selection",
    "Outputs": "kedit.evaluation.evaluation_set",
    "Vote": "kedit.locate.reduction",
    "Zero": "kedit.edit.operators",
    "amplify": "kedit.edit.operators",
    "apply_delta": "kedit.edit.delta",
    "check_folder": "kedit.pipelines.folder_check",
    "compare": "kedit.pipelines.compare",
    "diagnose": "kedit.doctor.diagnose",
    "draw": "kedit.pipelines.draw",
    "drawer": "kedit.models.drawing",
    "evaluate": "kedit.pipelines.evaluate",
    "export": "kedit.pipelines.export",
    "gone": "kedit.pipelines.gone",
    "inspect": "kedit.pipelines.inspect",
    "load": "kedit.models.loading",
    "locate_neurons": "kedit.pipelines.locate",
    "measure": "kedit.evaluation.measure",
    "rank_planted": "kedit.pipelines.comparison.planted",
    "revert_delta": "kedit.edit.delta",
    "run": "kedit.pipelines.run",
    "sweep": "kedit.pipelines.sweep",
    "task": "kedit.pipelines.task",
    "two_stage": "kedit.locate.two_stage",
    "wrap": "kedit.models.loading",
}

__all__ = [  # noqa: RUF022 - in the order of use
    "load", "wrap", "run", "compare", "locate_neurons", "sweep", "inspect", "task", "draw", "drawer", "evaluate",
    "export", "gone", "apply_delta", "revert_delta", "check_folder", "Counts", "Looks", "Method", "RunResult",
    "Comparison", "LocateResult", "SweepResult", "Inspection", "TaskResult", "DrawResult", "Evaluation", "Exported",
    "FolderCheck", "Gone", "Lessons",
    "HuggingFaceMLLM", "Scenes", "Coco", "Folder", "Prompts", "Concept", "Sample", "Question", "Counterfactual",
    "Exact", "MeanFill", "two_stage", "Locator", "Stage", "ActivationDifference", "GradCAM", "Activation", "Gradient",
    "Contribution", "NAM", "NAMImage", "KnowledgeNeurons", "DomainEntropy", "CausalEffect", "Miner", "Vote", "Quantile",
    "RatioOfMax", "TopK", "NeuronSet", "Edit", "Zero", "Scale", "amplify", "Patch", "EvaluationSet", "Outputs",
    "Similarity", "measure", "diagnose", "rank_planted", "PlantedBenchmark", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module `kedit` has no attribute `{name}`; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

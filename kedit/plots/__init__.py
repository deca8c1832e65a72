"""Figures: one style, about nine marks, and for each thing that kedit finds a short composition of them."""

from kedit.figure_style import Style
from kedit.plots.drawing import Drawing
from kedit.plots.effects import draw_answers, draw_effects, draw_intervals, draw_measures, draw_ranking
from kedit.plots.layers import draw_layers
from kedit.plots.lines import Curve, draw_lines, draw_streams, exact
from kedit.plots.neurons import draw_responses, draw_scores, draw_words
from kedit.plots.pictures import CaptionRow, HeatRow, PictureRow, draw_before_after, draw_heatmaps, draw_pictures
from kedit.plots.settings import Grid, draw_setting, draw_thresholds
from kedit.plots.style import Look
from kedit.plots.tables import draw_benchmark, draw_matrix
from kedit.plots.trials import Trial, draw_doses, draw_pareto

__all__ = [
    "CaptionRow", "Curve", "Drawing", "Grid", "HeatRow", "Look", "PictureRow", "Style", "Trial",
    "draw_answers", "draw_before_after", "draw_benchmark", "draw_doses", "draw_effects", "draw_heatmaps",
    "draw_intervals", "draw_layers", "draw_lines", "draw_matrix", "draw_measures", "draw_pareto", "draw_pictures",
    "draw_ranking", "draw_responses", "draw_scores", "draw_setting", "draw_streams", "draw_thresholds",
    "draw_words", "exact",
]  # fmt: skip

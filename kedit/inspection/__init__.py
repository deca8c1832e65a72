"""Look rather than read: where located neurons fire, in which layers they are, and what editing them did."""

from kedit.inspection.charts import draw_effects, draw_layers, draw_scores
from kedit.inspection.heatmap import heat_map, iou, other_regions, pointing_hit, region_auc
from kedit.inspection.pictures import CaptionRow, HeatRow, draw_before_after, draw_heatmaps

__all__ = [
    "CaptionRow",
    "HeatRow",
    "draw_before_after",
    "draw_effects",
    "draw_heatmaps",
    "draw_layers",
    "draw_scores",
    "heat_map",
    "iou",
    "other_regions",
    "pointing_hit",
    "region_auc",
]

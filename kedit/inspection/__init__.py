"""Look rather than read: what located neurons say, where they fire, how stable they are, what editing them did."""

from kedit.inspection.charts import draw_effects, draw_layers, draw_scores
from kedit.inspection.convergence import Streams, streams
from kedit.inspection.decode import Decoded, decode
from kedit.inspection.grid import Grid, NoGridError, picture_grids, token_grids
from kedit.inspection.heatmap import heat_map, iou, other_regions, pointing_hit, region_auc
from kedit.inspection.layer_charts import draw_layer_histograms
from kedit.inspection.pictures import CaptionRow, HeatRow, draw_before_after, draw_heatmaps
from kedit.inspection.shuffle import ShuffleError, shuffled

__all__ = [
    "CaptionRow",
    "Decoded",
    "Grid",
    "HeatRow",
    "NoGridError",
    "ShuffleError",
    "Streams",
    "decode",
    "draw_before_after",
    "draw_effects",
    "draw_heatmaps",
    "draw_layer_histograms",
    "draw_layers",
    "draw_scores",
    "heat_map",
    "iou",
    "other_regions",
    "picture_grids",
    "pointing_hit",
    "region_auc",
    "shuffled",
    "streams",
    "token_grids",
]

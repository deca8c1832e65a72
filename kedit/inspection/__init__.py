"""What located neurons say, where they fire, how stable they are: measures, no drawing."""

from kedit.inspection.convergence import Streams, streams
from kedit.inspection.decode import Decoded, decode
from kedit.inspection.grid import ImageGrid, NoGridError, picture_grids, token_grids
from kedit.inspection.heatmap import heat_map, iou, other_regions, pointing_hit, region_auc
from kedit.inspection.shuffle import ShuffleError, shuffled

__all__ = [
    "Decoded",
    "ImageGrid",
    "NoGridError",
    "ShuffleError",
    "Streams",
    "decode",
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

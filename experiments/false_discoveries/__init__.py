"""How well thresholds are chosen: false discoveries counted on planted models, effects beside a grid's."""

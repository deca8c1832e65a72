"""Pictures of the planted models: a grid of plain patches, red for the star, blue for the house, gray between."""

import numpy as np
from PIL import Image

from kedit.models.planted.builder import PATCH, SIDE
from kedit.samples import Concept, Counterfactual, Sample

RED, BLUE, GRAY = (255, 0, 0), (0, 0, 255), (128, 128, 128)
STAR_CONCEPT, HOUSE_CONCEPT = Concept("star"), Concept("house")


def picture(name: str, star: tuple[int, ...] = (), house: tuple[int, ...] = ()) -> Sample:
    """Return a gray picture of 4 x 4 patches with stars and houses at the given patches (0 to 15)."""
    pixels = np.full((SIDE * PATCH, SIDE * PATCH, 3), GRAY, np.uint8)
    regions = {}
    for concept, cells, color in (("star", star, RED), ("house", house, BLUE)):
        region = np.zeros(pixels.shape[:2], bool)
        for cell in cells:
            row, column = divmod(cell, SIDE)
            region[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = True
        if cells:
            pixels[region] = color
            regions[concept] = region
    caption = " ".join(["picture", *regions])
    return Sample(name, Image.fromarray(pixels), (caption,), frozenset(regions), regions)


def without(sample: Sample, concept: Concept) -> Counterfactual:
    """Return the exact counterfactual of a planted picture: its region in the background's gray."""
    pixels = np.array(sample.image)
    pixels[sample.region(concept)] = GRAY
    return Counterfactual(sample, concept, Image.fromarray(pixels))


def planted_pairs(n: int, seed: int = 0) -> list[Counterfactual]:
    """Return `n` pictures with two to four patches of star, half of them with a house, and each without the star."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(n):
        cells = rng.permutation(SIDE**2).tolist()
        n_star, n_house = rng.integers(2, 5, size=2).tolist()
        house = cells[n_star : n_star + n_house] if number % 2 else []
        sample = picture(f"planted-{seed}-{number}", tuple(cells[:n_star]), tuple(house))
        pairs.append(without(sample, STAR_CONCEPT))
    return pairs

"""Charts of what was located and what editing it did."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kedit.inspection.canvas import BLUE, GRAY, INK, SKY, VERMILLION, WIDTH, page, place, title_space
from kedit.samples import Mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_layers(
    by_layer: Mapping[int, int],
    n_layers: int,
    width: int,
    path: Path,
    *,
    title: str | None = None,
    candidates: Mapping[int, int] | None = None,
) -> None:
    """Draw how many located neurons each layer holds, as a PNG at `path`.

    Args:
        by_layer: For each layer its number of located neurons; a missing layer has none.
        n_layers: Layers of the model; all of them are shown.
        width: Neurons in each layer.
        path: The file to write.
        title: The finding; by default the number of neurons, their share and the fullest layer.
        candidates: What an earlier stage had kept, drawn behind. The axis is logarithmic where the
            candidates would otherwise dwarf what was kept of them.
    """
    for name, counts in (("by_layer", by_layer), ("candidates", candidates or {})):
        for layer, count in counts.items():
            if not 0 <= layer < n_layers or not 0 <= count <= width:
                raise ValueError(
                    f"`{name}` has {count} neurons in layer {layer}, but the model has layers 0 to {n_layers - 1} "
                    f"of {width}; pass the `n_layers` and `width` of the model that was scored"
                )
    from matplotlib.ticker import MaxNLocator

    title = title or _layers_finding(by_layer, n_layers * width)
    height = 3.3 + title_space(title)
    layers = np.arange(n_layers)
    located = np.array([by_layer.get(layer, 0) for layer in range(n_layers)])
    behind = np.array([(candidates or {}).get(layer, 0) for layer in range(n_layers)])
    with page(path, height, title) as figure:
        axes = place(figure, 0.75, 0.6, WIDTH - 1.0, 2.6)
        highest = max(1, located.max(), behind.max())
        logarithmic = behind.max() > 20 * max(1, located.max())
        if candidates is not None:
            axes.bar(layers, behind, 0.8, color=SKY, label=f"candidates of the earlier stage ({behind.sum():,})")
        axes.bar(layers, located, 0.56, color=BLUE, label=f"located ({located.sum():,})")
        if logarithmic:
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylim(0.5 if logarithmic else 0, highest * (4 if logarithmic else 1.2))
        _annotate_counts(axes, located, logarithmic)
        axes.set_xlim(-0.6, n_layers - 0.4)
        axes.set_xticks(layers[:: -(-n_layers // 24)])
        axes.set_xlabel(f"layer (0 is next to the input; {width} neurons each)")
        axes.set_ylabel("neurons")
        if candidates is not None:
            axes.legend(loc="upper left", ncols=2)


def _layers_finding(by_layer: Mapping[int, int], neurons: int) -> str:
    total = sum(by_layer.values())
    if not total:
        return f"No neuron of {neurons:,} was located"
    fullest = max(by_layer, key=lambda layer: (by_layer[layer], -layer))
    found = f"{total:,} of {neurons:,} neurons located ({100 * total / neurons:.3g} %)"
    return f"{found}; {by_layer[fullest]} of them in layer {fullest}" if total > 1 else f"{found}, in layer {fullest}"


def _annotate_counts(axes: "Axes", counts: NDArray[np.int64], logarithmic: bool) -> None:
    rotation = 90 if len(counts) > 20 and counts.max() >= 100 else 0
    size = 9 if len(counts) <= 20 else 7
    for layer, count in enumerate(counts):
        floor = max(count, 0.5) if logarithmic else count
        color = INK if count else GRAY
        axes.annotate(
            str(count), (layer, floor), (0, 2), textcoords="offset points", ha="center", va="bottom",
            size=size, rotation=rotation, color=color,
        )  # fmt: skip


def draw_scores(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    selected: Mask,
    path: Path,
    *,
    stages: tuple[str, str] = ("difference", "gradcam"),
    title: str | None = None,
) -> None:
    """Draw each neuron at its scores in two stages, the selected ones marked, as a PNG at `path`.

    `first`, `second` and `selected` share one shape, such as `[layer, neuron]`. Neurons with a score that is
    not finite are left out. The dashed lines are the lowest scores among the selected neurons.
    """
    if not first.shape == second.shape == selected.shape:
        shapes = f"{first.shape}, {second.shape} and {selected.shape}"
        raise ValueError(f"the scores of both stages and the selection must have one shape, got {shapes}")
    drawn = np.isfinite(first) & np.isfinite(second)
    kept, rest = drawn & selected, drawn & ~selected
    title = title or f"{kept.sum():,} of {drawn.sum():,} neurons pass both {stages[0]} and {stages[1]}"
    with page(path, 4.9 + title_space(title), title) as figure:
        axes = place(figure, 0.95, 0.6, WIDTH - 1.2, 4.1)
        axes.scatter(first[rest], second[rest], 6, color=GRAY, alpha=0.5, lw=0, label=f"other ({rest.sum():,})")
        axes.scatter(
            first[kept], second[kept], 26, color=VERMILLION, edgecolor="white", lw=0.6, zorder=3,
            label=f"selected ({kept.sum():,})",
        )  # fmt: skip
        if kept.any():
            axes.axvline(float(first[kept].min()), color=INK, lw=0.8, ls="--")
            axes.axhline(float(second[kept].min()), color=INK, lw=0.8, ls="--", label="lowest selected score")
        axes.set_xlabel(f"score of `{stages[0]}`")
        axes.set_ylabel(f"score of `{stages[1]}`")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def draw_effects(
    effects: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]],
    path: Path,
    *,
    concept: str,
    title: str | None = None,
) -> None:
    """Draw what an edit did beside what its random control did, as a PNG at `path`.

    Args:
        effects: For each measure the edit's value and the control's, each `{"value", "low", "high", "n"}`
            with 95 % bounds. A value of None is drawn as "n/a" with its "why". A name such as
            `suppression.mention_drop` goes to the panel `suppression`. Shares are expected; a value outside
            [0, 1] stretches the axis of its panel.
        path: The file to write.
        concept: What was edited, for the title.
        title: The finding; by default the first measure of the edit and of the control.
    """
    if not effects:
        raise ValueError("`effects` is empty, so there is nothing to draw; pass at least one measure")
    panels: dict[str, dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for name, pair in effects.items():
        panel, _, measure = name.rpartition(".")
        panels.setdefault(panel, {})[measure] = pair
    title = title or _effects_finding(effects, concept)
    most = max(len(measures) for measures in panels.values())
    body = 0.56 * most
    with page(path, body + 1.1 + title_space(title), title) as figure:
        room = (WIDTH - 0.15) / len(panels)
        for column, (panel, measures) in enumerate(panels.items()):
            # Panels are aligned at the top, with bars of one thickness.
            height = 0.56 * len(measures)
            axes = place(figure, 0.15 + column * room + 1.05, 0.75 + body - height, room - 1.2, height)
            _draw_panel(axes, measures, panel)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=2)


def _effects_finding(effects: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]], concept: str) -> str:
    name, (edited, control) = next(iter(effects.items()))
    return (
        f"`{concept}`: {name.rpartition('.')[2]} is {_number(edited)} with the edit, "
        f"{_number(control)} with random neurons"
    )


def _number(measured: Mapping[str, Any]) -> str:
    return "n/a" if measured.get("value") is None else f"{measured['value']:.2f}"


def _draw_panel(axes: "Axes", measures: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]], panel: str) -> None:
    """Draw one panel: a pair of horizontal bars for each measure, the first measure at the top."""
    known = [m[key] for pair in measures.values() for m in pair for key in ("value", "low", "high")
             if m.get("value") is not None and m.get(key) is not None]  # fmt: skip
    low, high = min([0.0, *known]), max([1.0, *known])
    for row, (edited, control) in enumerate(measures.values()):
        _draw_bar(axes, row - 0.2, edited, BLUE)
        _draw_bar(axes, row + 0.2, control, SKY)
    for color, label in ((BLUE, "with the edit"), (SKY, "with random neurons, layer-matched (control)")):
        axes.barh([np.nan], [np.nan], color=color, label=label)
    axes.set_yticks(range(len(measures)), [f"{name}\nn = {pair[0].get('n', 0)}" for name, pair in measures.items()])
    axes.set_ylim(len(measures) - 0.5, -0.5)
    # The rest of the axis is room for the labels.
    axes.set_xlim(low, low + (high - low) * 1.55)
    shares = (low, high) == (0, 1)
    axes.set_xticks([0, 0.5, 1] if shares else sorted({low, 0, high}), ["0", "0.5", "1"] if shares else None)
    axes.axvline(0, color=GRAY, lw=0.8)
    axes.spines["bottom"].set_bounds(low, high)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    axes.set_title(panel, size=10, weight="bold", loc="left")
    axes.set_xlabel(f"{'share' if shares else 'value'}, with 95 % interval", x=0.5 / 1.55)


def _draw_bar(axes: "Axes", y: float, measured: Mapping[str, Any], color: str) -> None:
    value, low, high = (measured.get(key) for key in ("value", "low", "high"))
    if value is None:
        why = str(measured.get("why") or "not measured")
        axes.annotate(f"n/a: {_shortened(why, 34)}", (0, y), (4, 0), textcoords="offset points", va="center", size=7)
        return
    axes.barh(y, value, 0.36, color=color)
    label, end = f"{value:.2f}", value
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=INK, lw=1.2, solid_capstyle="butt", marker="|", ms=4)
        label, end = f"{value:.2f} [{low:.2f}, {high:.2f}]", max(value, high)
    axes.annotate(label, (max(end, 0), y), (5, 0), textcoords="offset points", va="center", size=7.5)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"

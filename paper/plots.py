"""Figures 1 and 2 of the paper: drawings of growing and fading in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.images import convert_to_pil_image
from paper.material import Material
from paper.output import D_COLOR, G_COLOR, GREY, RGB_COLOR, arrow, blank_axes, box, new_figure, save_figure

# ----------------------------------------------------------------------------------------------------------------------
# Figure 1.


def growing_column(axes: Any, x: float, resolutions: Sequence[int | None]) -> None:
    """Draw G above and D below the image, with layers for the resolutions, finest last; None draws an ellipsis."""
    axes.text(x, 0, 'image', ha='center', va='center', fontsize=8)
    for sign, color, end in ((1, G_COLOR, 'latent'), (-1, D_COLOR, 'real or fake')):
        def flow(near, far, sign=sign):     # G flows towards the image, D away from it.
            arrow(axes, *[(x, sign * y) for y in ((far, near) if sign == 1 else (near, far))])

        y = 0.95
        flow(0.25, y - 0.27)
        for resolution in reversed(resolutions):
            if resolution is None:
                axes.text(x, sign * y, '⋮', ha='center', va='center', fontsize=10)
            else:
                box(axes, x, sign * y, 0.95 + 0.2 * np.log2(resolution / 4), 0.5, f'{resolution}×{resolution}',
                    color, 7)
            y += 0.6
        flow(y - 0.33, y + 0.12)
        axes.text(x, sign * (y + 0.35), end, ha='center', va='center', fontsize=8)


def growing_scheme(material: Material, name: str, experiments: Sequence[str], num_images: int) -> None:
    """Write Figure 1: networks that grow layer by layer, beside generated images if there is a run."""
    run = material.run(*experiments)
    images = material.images(run, experiments[0], material.seeds_or(num_images)[:6]) if run else []
    figure = new_figure(10.4 if images else 5, 4.3)
    grid = figure.add_gridspec(2, 6 if images else 3)
    axes = blank_axes(figure, grid[:, :3], x=(-0.6, 9.6), y=(-4.9, 4))
    for x, resolutions in ((1, [4]), (3.3, [4, 8]), (7.9, [4, 8, None, 1024])):
        growing_column(axes, x, resolutions)
    for y, text in ((1.7, 'G'), (0, '. . .'), (-1.7, 'D')):
        axes.text(5.5 if y == 0 else -0.3, y, text, fontsize=13, weight='bold', ha='center', va='center')
    arrow(axes, (0.2, -4.1), (9.2, -4.1))
    axes.text(4.7, -4.55, 'training progresses', ha='center', va='center', fontsize=9)
    for index, image in enumerate(images):
        place = figure.add_subplot(grid[index // 3, 3 + index % 3])
        place.imshow(convert_to_pil_image(image, (0, 255)).convert('RGB'), interpolation='nearest')
        place.axis('off')
    if run and images:
        material.show('Images', run, experiments[0], by_network=True)
    save_figure(material, name, figure)


# ----------------------------------------------------------------------------------------------------------------------
# Figure 2.


def stable_panel(axes: Any, higher: bool) -> None:
    """Draw Figure 2 (a), or (c) if `higher`: the networks before or after a doubling of the resolution."""
    names = ['16×16', *(['2×', '32×32'] if higher else []), 'toRGB']
    names += [{'toRGB': 'fromRGB', '2×': '0.5×'}.get(name, name) for name in reversed(names)]
    ys = [*np.linspace(11, 6.8, len(names) // 2), *np.linspace(4.8, 0.6, len(names) // 2)]
    for name, y in zip(names, ys, strict=True):
        resolution_color = G_COLOR if y > 5.8 else D_COLOR
        box(axes, 5.1, y, 2.1, 0.75, name, resolution_color if name in ('16×16', '32×32') else RGB_COLOR)
    for upper, lower in zip(ys[:-1], ys[1:], strict=True):
        arrow(axes, (5.1, upper - 0.38), (5.1, lower + 0.38))


def fading_panel(axes: Any) -> None:
    """Draw Figure 2 (b): the new layers fade in with the weight alpha."""
    left, middle, right = 3.1, 5.1, 7.1
    box(axes, middle, 11, 2.1, 0.75, '16×16', G_COLOR)
    box(axes, middle, 9.9, 2.1, 0.6, '2×', RGB_COLOR)
    box(axes, right, 8.75, 2.1, 0.7, '32×32', G_COLOR)
    arrow(axes, (middle, 10.62), (middle, 10.2))
    arrow(axes, (middle, 9.6), (middle, 9.38), (left, 9.38), (left, 8.1))
    arrow(axes, (middle, 9.6), (middle, 9.38), (right, 9.38), (right, 9.1))
    arrow(axes, (right, 8.4), (right, 8.1))
    for x in (left, right):
        box(axes, x, 7.8, 2.1, 0.6, 'toRGB', RGB_COLOR)
    blended(axes, left, middle, right, 7.5, 6.6)

    for x in (left, right):
        arrow(axes, (middle, 6.27), (middle, 5.25), (x, 5.25), (x, 4.8))
    for x, y, text in ((left, 4.5, '0.5×'), (left, 2.7, 'fromRGB'), (right, 4.5, 'fromRGB'), (right, 2.7, '0.5×')):
        box(axes, x, y, 2.1, 0.6, text, RGB_COLOR)
    box(axes, right, 3.6, 2.1, 0.7, '32×32', D_COLOR)
    arrow(axes, (left, 4.2), (left, 3))
    arrow(axes, (right, 4.2), (right, 3.95))
    arrow(axes, (right, 3.25), (right, 3))
    blended(axes, left, middle, right, 2.4, 1.6)
    arrow(axes, (middle, 1.28), (middle, 0.98))
    box(axes, middle, 0.6, 2.1, 0.75, '16×16', D_COLOR)


def blended(axes: Any, left: float, middle: float, right: float, y_from: float, y_to: float) -> None:
    """Draw the sum of two branches with the weights 1 - alpha and alpha."""
    for x, text, side in ((left, '1 − α', -1), (right, 'α', 1)):
        arrow(axes, (x, y_from), (x, y_to), (middle + 0.3 * side, y_to))
        axes.text(x + 0.15 * side, (y_from + y_to) / 2, text, fontsize=8, ha='right' if side < 0 else 'left',
                  va='center')
    axes.text(middle, y_to, '+', fontsize=11, ha='center', va='center', bbox={
        'boxstyle': 'circle,pad=0.1', 'facecolor': 'white', 'edgecolor': '#444444', 'linewidth': 0.7})


def fade_in(material: Material, name: str) -> None:
    """Write Figure 2: a doubling of the resolution in three panels."""
    figure = new_figure(7.6, 4.1)
    for number, title in enumerate(('(a) 16×16', '(b) fading in', '(c) 32×32')):
        axes = blank_axes(figure, 1, 3, number + 1, x=(0.4, 9.6), y=(-0.8, 11.6))
        fading_panel(axes) if number == 1 else stable_panel(axes, number == 2)
        axes.plot([0.9, 9.3], [5.75, 5.75], color=GREY, linewidth=0.7, linestyle=(0, (4, 3)))
        for y, text in ((6.1, 'G'), (5.4, 'D')):
            axes.text(0.7, y, text, fontsize=10, weight='bold', ha='center', va='center')
        axes.text(5.1, -0.6, title, fontsize=9, ha='center', va='center')
    save_figure(material, name, figure)

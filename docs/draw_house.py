"""Draw docs/images/house.png: the folders as layers, and the imports between them as arrows.

    python docs/draw_house.py
"""

import collections
import io
import pathlib
import sys

import PIL.Image
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.files import atomic_write  # noqa: E402
from tests.test_house import IMPORTS, LAYERS  # noqa: E402

PICTURE = ROOT / 'docs' / 'images' / 'house.png'
BOX_HEIGHT, LAYER_HEIGHT = 0.5, 0.86
SIDES = 0.28, 0.72, 0.5     # Layers of one room take these in turn, so that arrows do not hide each other.
FOR_ALL = {'common'}        # Nearly every module imports it: without arrows.


def room_of(module: str) -> str:
    return module.partition('.')[0]


def count_arrows() -> dict[tuple[str, str], int]:
    """{(importing room, imported room): number of imports} between different rooms."""
    return dict(collections.Counter((room_of(name), room_of(other)) for name, others in IMPORTS.items()
                                    for other in others if room_of(name) != room_of(other)))


def draw(path: pathlib.Path) -> None:
    arrows = count_arrows()
    modules = collections.Counter(map(room_of, IMPORTS))
    figure = Figure(figsize=(11, 10))
    axes = figure.add_axes((0, 0, 1, 1))
    places = {}
    for depth, layer in enumerate(LAYERS):
        for index, room in enumerate(layer):
            x = (index + 0.5) / len(layer) if len(layer) > 1 else SIDES[depth % len(SIDES)]
            places[room] = x, -depth * LAYER_HEIGHT
    for (importer, imported), count in sorted(arrows.items(), key=lambda arrow: arrow[1]):
        if importer in places and imported in places and imported not in FOR_ALL:
            line = {'color': '0.6', 'alpha': 0.55, 'linewidth': 0.4 + count ** 0.5 / 3, 'shrinkA': 12, 'shrinkB': 12}
            axes.annotate('', places[imported], places[importer], zorder=1, arrowprops={
                'arrowstyle': '-|>', 'connectionstyle': 'arc3,rad=0.06', **line})
    for room, (x, y) in places.items():
        text = room if modules[room] == 1 else f'{room}/\n{modules[room]} modules'
        is_package = modules[room] > 1
        axes.text(x, y, text, ha='center', va='center', fontsize=9 if is_package else 8, zorder=2, bbox={
            'boxstyle': 'round,pad=0.4', 'facecolor': '#cfe2f3' if is_package else '#fff2cc', 'edgecolor': '0.4'})
    axes.set(xlim=(0, 1), ylim=(-len(LAYERS) * LAYER_HEIGHT + BOX_HEIGHT, BOX_HEIGHT))
    axes.axis('off')
    path.parent.mkdir(exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90, format='png')
    with atomic_write(str(path)) as picture:
        PIL.Image.open(drawn, formats=('PNG',)).convert('RGB').quantize(32).save(picture, format='png', optimize=True)


if __name__ == '__main__':
    draw(PICTURE)
    print(f'Wrote {PICTURE.relative_to(ROOT)}')

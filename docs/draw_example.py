"""Draw the pictures of docs/emoji.md from a run without classes: growing, an interpolation, nearest neighbours.

    python docs/draw_example.py results/000-emoji-32x32
"""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.files import atomic_write  # noqa: E402
from explorer.points import slerp  # noqa: E402
from nets.network import Network, random_latents  # noqa: E402
from paper.neighbours import nearest_neighbours  # noqa: E402
from runs.images import finite_images, load_generator  # noqa: E402
from runs.records import config_or_none, read_stats  # noqa: E402

PICTURES = ROOT / 'docs' / 'images'
COLUMNS, ZOOM, GAP, MARGIN = 12, 2, 2, 116     # Images a row; enlargement; the rest in pixels of the picture.
SEED = 1

Row = tuple[str, Sequence[np.ndarray]]      # Caption, and images (H, W, 3) uint8.


def draw(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Write rows of equally large images with captions on the left."""
    side = rows[0][1][0].shape[0] * ZOOM
    picture = PIL.Image.new('RGB', (MARGIN + COLUMNS * (side + GAP), len(rows) * (side + 2 * GAP)), 'white')
    words = PIL.ImageDraw.Draw(picture)
    for index, (caption, images) in enumerate(rows):
        top = index * (side + 2 * GAP)
        words.multiline_text((4, top + side // 2), caption, fill='black', anchor='lm', font_size=14)
        for column, image in enumerate(images):
            cell = PIL.Image.fromarray(image).resize((side, side), PIL.Image.Resampling.NEAREST)
            picture.paste(cell, (MARGIN + column * (side + GAP), top))
    with atomic_write(str(path)) as file:
        picture.save(file, format='png', optimize=True)
    print(f'Wrote {path}')


def cells(grid_path: pathlib.Path, side: int) -> list[np.ndarray]:
    """The first images of a run's grid of images."""
    grid = np.asarray(PIL.Image.open(grid_path, formats=('PNG',)).convert('RGB'))
    per_row = grid.shape[1] // side
    places = [(number // per_row * side, number % per_row * side) for number in range(COLUMNS)]
    return [grid[top:top + side, left:left + side] for top, left in places]


def growing(run_dir: pathlib.Path, side: int) -> list[Row]:
    """The same latents at the end of each resolution, and real images."""
    resolutions = {line['resolution']: line['kimg'] for line in read_stats(str(run_dir))
                   if float(line['lod']).is_integer()}
    grids = sorted((int(path.stem[5:]), path) for path in run_dir.glob('fakes*.png'))
    rows: list[Row] = []
    for resolution, kimg in sorted(resolutions.items()):
        at, path = min(grids, key=lambda grid: abs(grid[0] - kimg))
        rows.append((f'{resolution}x{resolution}\n{at} kimg', cells(path, side)))
    return [*rows, ('real\nimages', cells(run_dir / 'reals.png', side))]


def generated(G: Network, latents: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W), uint8."""
    return finite_images(G, latents, np.zeros((len(latents), 0), np.float32))


def interpolation(G: Network) -> list[Row]:
    """Spherical interpolations between random latents, one per row."""
    rows: list[Row] = []
    for number in range(3):
        ends = random_latents(2, G, np.random.RandomState(SEED + number))
        path = np.float32([slerp(*ends, t) for t in np.linspace(0, 1, COLUMNS)])
        rows.append(('', list(generated(G, path).transpose(0, 2, 3, 1))))
    return rows


def neighbours(G: Network, h5_path: str) -> list[Row]:
    """Fakes above the real images that are nearest by pixels."""
    fakes = generated(G, random_latents(COLUMNS, G, np.random.RandomState(SEED)))
    _indices, reals = nearest_neighbours(fakes, h5_path, 2)
    images = [fakes, reals[:, 0], reals[:, 1]]
    return [(caption, list(row.transpose(0, 2, 3, 1))) for caption, row in zip(
        ('generated', 'nearest\nreal image', 'second\nnearest'), images, strict=True)]


if __name__ == '__main__':
    run = pathlib.Path(sys.argv[1])
    config = config_or_none(str(run))
    draw(growing(run, config['dataset']['resolution']), PICTURES / 'growing.png')
    Gs = load_generator(str(run))
    draw(interpolation(Gs), PICTURES / 'interpolation.png')
    draw(neighbours(Gs, config['run']['data_set']), PICTURES / 'neighbours.png')

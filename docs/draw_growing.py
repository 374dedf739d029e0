"""Draw how a training grew: the same latents at the end of each resolution, beside real pictures, from a run's grids.

    python docs/draw_growing.py results/000-emoji docs/images/growing.png
"""

import pathlib
import sys

import numpy as np
import PIL.Image
import PIL.ImageDraw

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.files import atomic_write  # noqa: E402
from runs.records import config_or_none, read_stats  # noqa: E402

COLUMNS, ZOOM, GAP, MARGIN = 12, 2, 2, 108     # Cells a row; the rest in pixels of the picture.


def chosen_grids(run_dir: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """(caption, file) of the last grid of each resolution, the coarsest first, and of the reals."""
    resolutions = {}        # {resolution: kimg of its last tick}
    for line in read_stats(str(run_dir)):
        if float(line['lod']).is_integer():
            resolutions[line['resolution']] = line['kimg']
    grids = sorted((int(path.stem[5:]), path) for path in run_dir.glob('fakes*.png'))
    rows = []
    for resolution, kimg in sorted(resolutions.items()):
        at, path = max(grid for grid in grids if grid[0] <= round(kimg))
        rows.append((f'{resolution}x{resolution}\n{at} kimg', path))
    return [*rows, ('real\npictures', run_dir / 'reals.png')]


def draw(run_dir: pathlib.Path, path: pathlib.Path, side: int) -> None:
    """Write the picture; `side` is the height of a cell of the grids, in pixels."""
    rows = chosen_grids(run_dir)
    pitch = side * ZOOM + GAP
    picture = PIL.Image.new('RGB', (MARGIN + COLUMNS * pitch, len(rows) * (pitch + GAP)), 'white')
    words = PIL.ImageDraw.Draw(picture)
    for index, (caption, grid_path) in enumerate(rows):
        y = index * (pitch + GAP)
        words.multiline_text((4, y + pitch // 2), caption, fill='black', anchor='lm', font_size=14)
        grid = np.asarray(PIL.Image.open(grid_path, formats=('PNG',)).convert('RGB'))
        for column in range(COLUMNS):
            top, left = column // (grid.shape[1] // side) * side, column % (grid.shape[1] // side) * side
            cell = PIL.Image.fromarray(grid[top:top + side, left:left + side])
            picture.paste(cell.resize((side * ZOOM, side * ZOOM), PIL.Image.Resampling.NEAREST),
                          (MARGIN + column * pitch, y))
    with atomic_write(str(path)) as file:
        picture.save(file, format='png', optimize=True)


if __name__ == '__main__':
    run, output = map(pathlib.Path, sys.argv[1:3])
    draw(run, output, config_or_none(str(run))['dataset']['resolution'])
    print(f'Wrote {output}')

"""Draw contact sheets: images of a dataset side by side, one row or several per class, enlarged if they are small."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.images import PICTURE_PIXELS, TITLE_CHARACTERS, convert_to_pil_image, zoom_to_see

PAPER, INK = (236, 238, 241), (28, 33, 40)
MAX_ACROSS = 16             # Most images in a row, with or without classes.
IMAGES = 640                # With many classes, a sheet has about this many images in all.
FEW_ROWS = 8                # A sheet has at least this many rows, if there are enough images.
TALL_ENOUGH = 16            # More rows with titles than this are split into blocks side by side.


def rows_of_classes(num_classes: int, side: int) -> tuple[int, int]:
    """(images per row, rows per class) on a sheet of images of `side` pixels; few classes have several rows each."""
    return max(min(PICTURE_PIXELS // side, MAX_ACROSS, -(-IMAGES // num_classes)), 1), max(FEW_ROWS // num_classes, 1)


def grid_of(num: int, side: int) -> tuple[int, int]:
    """(columns, rows) for at most `num` images of `side` pixels without classes, without empty cells if possible."""
    limit = int(np.clip(PICTURE_PIXELS // side, 4, MAX_ACROSS))
    if num >= limit * limit:
        return limit, limit
    columns = max(min(limit, int(np.ceil(np.sqrt(num)))), 1)
    whole = [count for count in range(columns, min(2 * columns, limit) + 1) if num % count == 0]
    columns = whole[0] if whole else columns
    return columns, -(-num // columns)


def number_of_blocks(num_rows: int, row_shape: float) -> int:
    """The number of blocks side by side that makes a sheet about square; `row_shape` is a row's width / height."""
    def distance(blocks):
        return abs(np.log(blocks * row_shape / -(-num_rows // blocks)))

    return min(range(1, num_rows + 1), key=distance)


def draw_sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] | None = None) -> Image.Image:
    """Draw rows of images.

    Parameters
    ----------
    rows : sequence of sequences of uint8 (C, H, W)
        Images of one size; rows may have different lengths.
    titles : sequence of str, optional
        Titles to the left of the rows. Characters that the built-in font lacks are replaced.

    Returns
    -------
    Pillow image, RGB
        Images are enlarged by a whole number, so that the sheet has a side of about 1000 pixels. Many rows with titles
        are split into blocks side by side.
    """
    height, width = rows[0][0].shape[-2:]
    across = max(map(len, rows))
    lines = [title.encode('latin-1', 'replace').decode('latin-1')[:TITLE_CHARACTERS] for title in titles or ()]
    # Titles are a third of an image's height, at least 10 pixels; a character is about half as wide as high.
    letters = max(map(len, lines), default=0)
    blocks = 1 if len(rows) <= TALL_ENOUGH or titles is None else number_of_blocks(
        len(rows), (across * width + letters * max(height / 6, 5)) / height)
    down = -(-len(rows) // blocks)
    zoom = zoom_to_see(down * height, blocks * (across * width + letters * height // 6))
    gap = max(round(height * zoom / 32), 1)
    size = int(np.clip(height * zoom / 3, 9, 22))
    font = ImageFont.load_default(size)
    margin = int(max(map(font.getlength, lines), default=0)) + size if lines else 0
    step_x, step_y = width * zoom + gap, max(height * zoom, size) + gap
    block_width = margin + across * step_x
    apart = size if blocks > 1 else 0
    canvas = Image.new('RGB', (blocks * (block_width + apart) - apart + gap, down * step_y + gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, images in enumerate(rows):
        x, y = number // down * (block_width + apart) + gap, number % down * step_y + gap
        if lines:
            draw.text((x + margin - size // 2, y + height * zoom // 2), lines[number], fill=INK, font=font, anchor='rm')
        for place, image in enumerate(images):
            cell = convert_to_pil_image(image, (0, 255)).convert('RGB')
            canvas.paste(cell.resize((width * zoom, height * zoom), Image.Resampling.NEAREST),
                         (x + margin + place * step_x, y))
    return canvas

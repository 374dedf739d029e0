"""The figures of the paper that consist of images (3, 5 to 17, appendix H)."""

import os
import shlex
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from common.files import check_regular
from paper import numbers, output
from paper.entries import images_text
from paper.material import Material, Run
from paper.neighbours import centre_box, nearest_neighbours
from paper.numbers import Number
from paper.tables import best_score, table1_experiments

CELEBAHQ = ('celebahq-1024', 'celebahq-v1-1gpu', 'celebahq-v2-8gpus', 'celebahq-v2-4gpus', 'celebahq-v2-2gpus',
            'celebahq-v2-1gpu', 'celebahq-1024-lsgan')      # In order of preference. The last one has another loss.
FIGURE1 = ('celebahq-1024-lsgan', *CELEBAHQ[:-1])
# The categories, and their distribution over the figures, are recalled.
FIGURE7 = ('pottedplant', 'horse', 'sofa', 'bus', 'church_outdoor', 'bicycle', 'tvmonitor')
LSUN_PAGES = {
    'figure12': ('airplane', 'bedroom', 'bicycle', 'bird', 'boat'),
    'figure13': ('bottle', 'bridge', 'bus', 'car', 'cat'),
    'figure14': ('chair', 'church_outdoor', 'classroom', 'conference_room', 'cow'),
    'figure15': ('dining_room', 'diningtable', 'dog', 'horse', 'kitchen'),
    'figure16': ('living_room', 'motorbike', 'person', 'pottedplant', 'restaurant'),
    'figure17': ('sheep', 'sofa', 'tower', 'train', 'tvmonitor'),
}
STEPS = {       # Stages of making CelebA-HQ: {name in the file names of `create_celebahq --save_stages`: caption}.
    'decoded': 'photo', 'shrink': 'shrunk', 'crop': 'cropped', 'superres': 'enlarged', 'padraw': 'borders mirrored',
    'mask': 'weight of the borders', 'padblur': 'borders blurred', 'padmed': 'faded to the median', 'pad': 'padded',
    'region': 'the square to cut out', 'transform': 'cut out', 'final': 'shrunk to 1024x1024', 'delta': 'corrected',
}
NEIGHBOURS = 5
CROP_COLOR = '#ffcc00'


def caption_of(run: Run, title: str, captions: bool) -> str:
    """`title` and, if `captions`, the run's SWD and FID beside the paper's values."""
    results = {name: result for name in ('swd', 'fid') for result in [run.result(name)] if captions and result}
    parts = [title]
    if 'swd' in results:        # 'x' because Pillow's default font lacks '×'.
        paper = numbers.SWD.get(run.name or '', {})
        parts.append('SWD x 1000: ' + ', '.join(
            beside_paper(value, paper.get(level)) + (' on average' if level == 'avg' else ' at ' + level)
            for level, value in run.swd().items()))
    if 'fid' in results:
        parts.append('FID ' + beside_paper(run.values('fid')['FID'], numbers.FID.get(run.name or '')))
    fewer = [images_text(name, result['num_images']) for name, result in results.items()
             if '(paper' in images_text(name, result['num_images'])]
    return '. '.join([*parts, *fewer])


def beside_paper(value: float, number: Number | None) -> str:
    """'7.41 (paper 7.30)', or '7.41' where `number` is None."""
    return f'{value:.2f}' + (f' (paper {number.value:.2f})' if number else '')


def gallery(material: Material, experiments: Sequence[str], num_images: int, columns: int, size: int, title: str,
            captions: bool = False, with_kimg: bool = False) -> Image.Image | None:
    """:func:`gallery_of` for the first run that stands for one of `experiments`; None without a run."""
    runs = material.all_runs(*experiments)
    if not runs:
        return None
    notes = [f'the first of {len(runs)} runs given'] if len(runs) > 1 else []
    return gallery_of(material, runs[0], experiments[0], num_images, columns, size, title, captions, with_kimg, notes)


def gallery_of(material: Material, run: Run, experiment: str, num_images: int, columns: int, size: int, title: str,
               captions: bool = False, with_kimg: bool = False, notes: Sequence[str] = ()) -> Image.Image | None:
    """A captioned grid of generated images of a run; None if its networks are missing or refused.

    Parameters
    ----------
    material : Material
    run : Run
    experiment : str
        The experiment that the run stands for.
    num_images, columns : int
    size : int
        Height of an image in pixels.
    title : str
    captions : bool
        Add the resolution, SWD and FID to the title.
    with_kimg : bool
        Add the training length to the title.
    notes : list of str
        For the record of the figure.
    """
    images = material.images(run, experiment, material.seeds_or(num_images))
    if not images:
        return None
    if captions and run.folder:
        material.check_metrics(run, 'swd', 'fid')
    entry = material.show(title, run, experiment, notes=notes, by_network=True, results=[
        run.result(metric) for metric in ('swd', 'fid') if captions])
    title += ', %dx%d' % images[0].shape[:0:-1] if captions else ''
    title += f', {entry.trained}' if with_kimg else ''
    title += f', NOT {experiment}' if entry.other else ''
    return output.captioned(output.image_grid(images, columns, size), caption_of(run, title, captions))


def save_pictures(material: Material, name: str, pictures: Sequence[Image.Image | None], columns: int = 1) -> None:
    """Write the pictures that are not None side by side as ``NAME.png``."""
    made = [picture for picture in pictures if picture is not None]
    if made:
        output.save_picture(material, name, output.arranged(made, columns))


def figure3(material: Material, name: str) -> None:
    """Images of the CelebA networks of all rows of Table 1 for the same latents. Rows a to g are not converged."""
    pictures = [gallery(material, [experiment_name], 6, 3, 128, '(%s) %s' % row, with_kimg=True)
                for experiment_name, row in table1_experiments('celeba').items()]
    save_pictures(material, name, pictures, 3)


def figure5(material: Material, name: str) -> None:
    """CelebA-HQ faces; choose them with --seeds."""
    save_pictures(material, name, [gallery(material, CELEBAHQ, 8, 4, 512, 'CelebA-HQ')])


def figure6(material: Material, name: str) -> None:
    """LSUN bedrooms. The paper's figure also shows images of other methods, which we cannot generate."""
    save_pictures(material, name, [gallery(material, ['lsun-bedroom'], 6, 3, 256, 'LSUN bedroom')])


def figure7(material: Material, name: str) -> None:
    """Seven categories of LSUN, one per row."""
    save_pictures(material, name, [gallery(material, ['lsun-' + category], 6, 6, 192, 'LSUN ' + category)
                                   for category in FIGURE7])


def figure8(material: Material, name: str) -> None:
    """The stages of making a CelebA-HQ image from a photo."""
    folder = material.stages_dir
    paths = [os.path.join(folder, file) for file in sorted(os.listdir(folder)) if file.endswith('.png')] if (
        folder and os.path.isdir(folder)) else []
    if not paths:
        data = material.data_of(CELEBAHQ[0])
        material.need('the stages of an image, for --stages DIR' if folder is None else
                      f'--stages {folder}: the folder has no PNG files of the stages of an image',
                      f'{material.create_command(data)} --save_stages {shlex.quote(folder or "stages")}', data)
        return
    pictures = []
    for index, path in enumerate(paths):
        check_regular(path)
        with Image.open(path, formats=['PNG']) as file:
            image = file.convert('RGB')
            image.thumbnail((320, 240), Image.Resampling.LANCZOS)
        step = os.path.splitext(os.path.basename(path))[0].partition('-')[2]
        pictures.append(output.captioned(image, f'({chr(ord("a") + index)}) {STEPS.get(step, step)}'))
    save_pictures(material, name, pictures, min(len(pictures), 4))


def figure9(material: Material, name: str) -> None:
    """CIFAR-10, unsupervised, from the run with the highest inception score."""
    runs = material.all_runs('cifar10')
    scores = [best_score(run) for run in runs]
    for run, score in zip(runs, scores, strict=True):
        if len(runs) > 1 and run.folder and not score:
            material.check_metrics(run, 'inception_score', all_snapshots=True)
    if runs:
        values = [score.value if score else 0.0 for score in scores]
        best = int(np.argmax(values))
        note = f'chosen from {len(runs)} runs: ' + (
            f'highest inception score during training, {values[best]:.2f}' if values[best] else 'the first, no scores')
        save_pictures(material, name, [gallery_of(
            material, runs[best], 'cifar10', 100, 10, 64, 'CIFAR-10, unsupervised',
            notes=[note] if len(runs) > 1 else [])])


def figure10(material: Material, name: str) -> None:
    """Generated CelebA-HQ images above their nearest neighbours among the reals."""
    run = material.run(*CELEBAHQ)
    if run is None:
        return
    h5_path = run.h5_path(material.config, material.data_dir)
    if not os.path.exists(h5_path):
        material.need(f'{h5_path}, which contains the neighbours', material.create_command(h5_path), h5_path)
        return
    images = material.images(run, CELEBAHQ[0], material.seeds_or(6))
    if not images:
        return
    _indices, neighbours = nearest_neighbours(np.stack(images), h5_path, NEIGHBOURS, material.description.describe)
    size = 192
    fakes = output.image_grid(images, len(images), size)
    by_rank = neighbours.swapaxes(0, 1).reshape(-1, *neighbours.shape[2:])
    grid = framed_centre(output.image_grid(by_rank, len(images), size), len(images), NEIGHBOURS)
    reals = output.captioned(
        grid, f'Top row: generated. Below: their {NEIGHBOURS} nearest images in {os.path.basename(h5_path)}, nearest '
        f'first, by {material.description.words}. Only the centre of each image is compared: the frame, bottom right.')
    material.show('Nearest neighbours', run, CELEBAHQ[0], by_network=True)
    save_pictures(material, name, [fakes, reals])


def framed_centre(grid: Image.Image, columns: int, rows: int) -> Image.Image:
    """Draw a frame around the compared centre of the last image in a grid; return the grid."""
    width, height = grid.width // columns, grid.height // rows
    left, top, right, bottom = centre_box(height, width)
    x, y = (columns - 1) * width, (rows - 1) * height
    ImageDraw.Draw(grid).rectangle((x + left, y + top, x + right - 1, y + bottom - 1), None, CROP_COLOR, 2)
    return grid


def figure11(material: Material, name: str) -> None:
    """Uncurated CelebA-HQ faces with SWD and FID."""
    save_pictures(material, name, [gallery(material, CELEBAHQ, 30, 6, 256, 'CelebA-HQ, uncurated', True)])


def lsun_page(material: Material, name: str) -> None:
    """Uncurated images of five categories of LSUN with SWD and FID."""
    save_pictures(material, name, [gallery(material, ['lsun-' + category], 20, 10, 128, 'LSUN ' + category, True)
                                   for category in LSUN_PAGES[name]])


def appendix_h(material: Material, name: str) -> None:
    """A larger grid of images for each row of Table 1, one file per row."""
    for data in numbers.TABLE1:
        for experiment_name, (row, configuration) in table1_experiments(data).items():
            picture = gallery(material, [experiment_name], 80, 10, 128, f'{data} ({row}) {configuration}')
            save_pictures(material, f'{name}-{data}-{row.replace("*", "star")}', [picture])

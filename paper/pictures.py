"""The figures of the paper that are made of images."""

import os
import shlex
from collections.abc import Sequence

import numpy as np
from PIL import Image

from common.files import check_regular
from common.images import save_pil_image
from paper import numbers, output
from paper.material import Material, Run, nearest_neighbours
from paper.numbers import Number
from paper.tables import sample_note, table1_experiments

CELEBAHQ = ('celebahq-1024', 'celebahq-v1-1gpu', 'celebahq-v2-8gpus', 'celebahq-v2-4gpus', 'celebahq-v2-2gpus',
            'celebahq-v2-1gpu', 'celebahq-1024-lsgan')      # The paper's own first; the others are stand-ins.
FIGURE1 = ('celebahq-1024-lsgan', *CELEBAHQ[:-1])
# Which categories, and on which page, is recalled.
FIGURE7 = ('pottedplant', 'horse', 'sofa', 'bus', 'church_outdoor', 'bicycle', 'tvmonitor')
LSUN_PAGES = {
    'figure12': ('airplane', 'bedroom', 'bicycle', 'bird', 'boat'),
    'figure13': ('bottle', 'bridge', 'bus', 'car', 'cat'),
    'figure14': ('chair', 'church_outdoor', 'classroom', 'conference_room', 'cow'),
    'figure15': ('dining_room', 'diningtable', 'dog', 'horse', 'kitchen'),
    'figure16': ('living_room', 'motorbike', 'person', 'pottedplant', 'restaurant'),
    'figure17': ('sheep', 'sofa', 'tower', 'train', 'tvmonitor'),
}
STEPS = {       # Of the making of CelebA-HQ, by the names of the files of create_celebahq.
    'decoded': 'photo', 'shrink': 'shrunk', 'crop': 'cropped', 'superres': 'enlarged', 'padraw': 'borders mirrored',
    'mask': 'weight of the borders', 'padblur': 'borders blurred', 'padmed': 'faded to the median', 'pad': 'padded',
    'region': 'the square to cut out', 'transform': 'cut out', 'final': 'shrunk to 1024x1024', 'delta': 'corrected',
}
NEIGHBOURS = 5
CREATE_CELEBAHQ = 'python dataset_tool.py create_celebahq datasets/celeba-hq-1024x1024.h5 CELEBA_DIR DELTA_DIR'


def caption_of(run: Run, title: str, captions: bool) -> str:
    """`title` and, if `captions`, what the run has of SWD and FID, beside the paper's."""
    results = {name: run.metric(name)[-1] for name in ('swd', 'fid') if captions and run.metric(name)}
    parts = [title + (f' ({run.remark})' if run.remark else '')]     # Without '×', which Pillow's own font lacks.
    if 'swd' in results:
        paper = numbers.SWD.get(run.name or '', {})
        parts.append('SWD x 1000: ' + ', '.join(
            beside_paper(value, paper.get(level)) + (' on average' if level == 'avg' else ' at ' + level)
            for level, value in run.swd().items()))
    if 'fid' in results:
        parts.append('FID ' + beside_paper(run.last('fid')['FID'], numbers.FID.get(run.name or '')))
    return '. '.join(parts + [note.rstrip('.') for note in sample_note(results.values())])


def beside_paper(value: float, number: Number | None) -> str:
    """'7.41 (paper 7.30)', or '7.41' where `number` is None."""
    return f'{value:.2f}' + (f' (paper {number.value:.2f})' if number else '')


def gallery(material: Material, experiments: Sequence[str], num_images: int, columns: int, size: int, title: str,
            captions: bool = False) -> Image.Image | None:
    """A picture of generated images of the first of `experiments` that has a run, with a caption; None without."""
    run = material.run(*experiments)
    if run is None:
        return None
    if captions and run.folder:
        material.check_metrics(run, 'swd', 'fid')
    seeds = material.seeds_or(num_images)
    images = run.images(seeds)
    run.compare(material.config, material.data_dir)
    title += ', %dx%d' % images[0].shape[:0:-1] if captions else ''
    return output.captioned(output.image_grid(images, columns, size), caption_of(run, title, captions))


def save_pictures(material: Material, name: str, pictures: Sequence[Image.Image | None], columns: int = 1) -> None:
    """Write pictures, those that are not None, side by side as ``NAME.png``."""
    made = [picture for picture in pictures if picture is not None]
    if made:
        save_pil_image(output.arranged(made, columns), material.path(name + '.png'))


def figure3(material: Material, name: str) -> None:
    """The same latents through the CelebA networks of all rows of Table 1."""
    pictures = [gallery(material, [experiment_name], 6, 3, 128, '(%s) %s' % row)
                for experiment_name, row in table1_experiments('celeba').items()]
    save_pictures(material, name, pictures, 3)


def figure5(material: Material, name: str) -> None:
    """CelebA-HQ faces; choose them with --seeds."""
    save_pictures(material, name, [gallery(material, CELEBAHQ, 8, 4, 512, 'CelebA-HQ')])


def figure6(material: Material, name: str) -> None:
    """LSUN bedrooms. The images of the other methods in the paper's figure are theirs."""
    save_pictures(material, name, [gallery(material, ['lsun-bedroom'], 6, 3, 256, 'LSUN bedroom')])


def figure7(material: Material, name: str) -> None:
    """Seven categories of LSUN, one a row."""
    save_pictures(material, name, [gallery(material, ['lsun-' + category], 6, 6, 192, 'LSUN ' + category)
                                   for category in FIGURE7])


def figure8(material: Material, name: str) -> None:
    """What each step of making CelebA-HQ does to a photo."""
    folder = material.stages_dir
    paths = [os.path.join(folder, file) for file in sorted(os.listdir(folder)) if file.endswith('.png')] if (
        folder and os.path.isdir(folder)) else []
    if not paths:
        material.need('the steps of an image, for --stages DIR' if folder is None else
                      f'--stages {folder}: has no PNG files, the steps of an image',
                      CREATE_CELEBAHQ + f' --save_stages {shlex.quote(folder or "stages")}')
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
    """CIFAR-10, unsupervised."""
    save_pictures(material, name, [gallery(material, ['cifar10'], 100, 10, 64, 'CIFAR-10, unsupervised')])


def figure10(material: Material, name: str) -> None:
    """CelebA-HQ: generated images above their nearest neighbours among the reals."""
    run = material.run(*CELEBAHQ)
    if run is None:
        return
    h5_path = run.h5_path(material.config, material.data_dir)
    if not os.path.exists(h5_path):
        material.need(f'{h5_path}, to look for neighbours in', CREATE_CELEBAHQ)
        return
    images = np.stack(run.images(material.seeds_or(6)))
    _indices, neighbours = nearest_neighbours(images, h5_path, NEIGHBOURS, material.features)
    size = 192
    fakes = output.image_grid(images, len(images), size)
    by_rank = neighbours.swapaxes(0, 1).reshape(-1, *neighbours.shape[2:])
    reals = output.captioned(
        output.image_grid(by_rank, len(images), size),
        f'Above: generated. Below: the nearest {NEIGHBOURS} training images, compared by '
        f'{"Inception features" if material.features else "pixels"} of the middle part.'
        f'{f" The network was {run.remark}." if run.remark else ""}')
    save_pictures(material, name, [fakes, reals])


def figure11(material: Material, name: str) -> None:
    """Uncurated CelebA-HQ with SWD and FID."""
    save_pictures(material, name, [gallery(material, CELEBAHQ, 30, 6, 256, 'CelebA-HQ, uncurated', True)])


def lsun_page(material: Material, name: str) -> None:
    """Uncurated images of five categories of LSUN with SWD and FID."""
    save_pictures(material, name, [gallery(material, ['lsun-' + category], 20, 10, 128, 'LSUN ' + category, True)
                                   for category in LSUN_PAGES[name]])


def appendix_h(material: Material, name: str) -> None:
    """A larger grid for each row of Table 1, one file each."""
    for data in numbers.TABLE1:
        for experiment_name, (row, configuration) in table1_experiments(data).items():
            picture = gallery(material, [experiment_name], 80, 10, 128, f'{data} ({row}) {configuration}')
            save_pictures(material, f'{name}-{data}-{row.replace("*", "star")}', [picture])

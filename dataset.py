"""Random minibatches out of the multi-resolution HDF5 files that `dataset_tool.py` writes."""

import os

import h5py
import numpy as np

import misc


class Dataset:
    """Images and labels of one HDF5 file in an endless random order.

    The order is a list of image indices, each repeated so often that the list is at least four prefetch sizes long. It
    is shuffled once; after every minibatch each position that was used is swapped with a random one up to half the list
    before it. All draws come from NumPy's global generator.

    Parameters
    ----------
    h5_path : str
        HDF5 file with datasets ``data{r}x{r}`` (N, C, r, r) uint8 for r = resolution, resolution / 2, ..., 1. Labels
        are in ``NAME-labels.npy`` beside ``NAME.h5``: float32 (N, label_size).
    resolution : int or None
        Largest resolution to use; None takes the file's.
    max_labels : 'all' or int
        How many columns of the labels to use; 0 for none.
    max_images : int or None
        Use the first images only.
    mirror_augment : bool
        Flip every image left to right with probability 1/2.
    shuffle : bool
        False gives the images in the file's order.
    prefetch_images : int
        A quarter of the least length of the order.
    max_gb_to_load_right_away : float
        Resolutions smaller than this are kept in memory from the start.

    Attributes
    ----------
    shape : (C, H, W)
        Of a full-resolution image.
    labels : float32 (rows, label_size)
    label_size : int
    """

    def __init__(self, h5_path, resolution=None, max_labels='all', max_images=None, mirror_augment=False, shuffle=True,
                 prefetch_images=512, max_gb_to_load_right_away=1.0):
        if not os.path.isfile(h5_path):
            raise misc.UserError('dataset.h5_path=%r: there is no such file; make it with dataset_tool.py' % h5_path)
        try:
            self.h5_file = h5py.File(h5_path, 'r')
        except OSError as error:
            raise misc.UserError('dataset.h5_path=%r: not a complete HDF5 file (%s); make it again with dataset_tool.py'
                                 % (h5_path, str(error).splitlines()[0])) from error
        self.h5_path, self.mirror_augment = h5_path, mirror_augment
        self.levels = self.open_levels(resolution)
        num_images, *self.shape = self.levels[0].shape
        self.shape = tuple(self.shape)
        if max_images is not None:
            num_images = min(num_images, max_images)
        self.num_images = num_images
        bytes_per_gb = 2 ** 30
        self.levels = [level[:num_images] if num_images * np.prod(level.shape[1:]) < max_gb_to_load_right_away *
                       bytes_per_gb else level for level in self.levels]
        self.labels = self.load_labels(max_labels)
        self.order = np.tile(np.arange(num_images), -(-4 * prefetch_images // num_images))
        self.position, self.window = 0, 1
        if shuffle:
            self.window = max(min(len(self.order) // 2, len(self.order) - 2 * prefetch_images - 1), 1)
            np.random.shuffle(self.order)

    def open_levels(self, resolution):
        """The HDF5 datasets from `resolution` down to 1x1."""
        sizes = [int(key[4:].split('x')[0]) for key in self.h5_file if key.startswith('data') and key[4:5].isdigit()]
        if not sizes:
            raise misc.UserError("dataset.h5_path=%r: has no images (datasets 'data16x16' etc.); make it with dataset_tool.py"
                                 % self.h5_path)
        resolution = resolution or max(sizes)
        if resolution < 1 or resolution & (resolution - 1):
            raise misc.UserError('dataset.resolution=%r: must be a power of two' % resolution)
        if resolution > max(sizes):
            raise misc.UserError('dataset.resolution=%r: %s has images of %dx%d at most'
                                 % (resolution, self.h5_path, max(sizes), max(sizes)))
        levels = []
        while resolution >= 1:
            key = 'data%dx%d' % (resolution, resolution)
            level = self.h5_file.get(key)
            first = levels[0] if levels else level
            if level is None or level.ndim != 4 or level.dtype != np.uint8 or level.shape[0] == 0 or \
                    level.shape[2:] != (resolution, resolution) or level.shape[:2] != first.shape[:2]:
                raise misc.UserError('dataset.h5_path=%r: %s is missing or not uint8 (N, C, %d, %d); make the file again '
                                     'with dataset_tool.py' % (self.h5_path, key, resolution, resolution))
            levels.append(level)
            resolution //= 2
        return levels

    def load_labels(self, max_labels):
        path = os.path.splitext(self.h5_path)[0] + '-labels.npy'
        rows = self.h5_file['data1x1'].shape[0]
        if max_labels == 0 or not os.path.isfile(path):
            labels = np.zeros((rows, 0), dtype=np.float32)
        else:
            labels = np.load(path, allow_pickle=False).astype(np.float32)
        if labels.ndim != 2 or len(labels) != rows:
            raise misc.UserError('%r: labels of shape %s do not fit %d images; make the dataset again'
                                 % (path, labels.shape, rows))
        return labels if max_labels == 'all' else labels[:, :max_labels]

    @property
    def label_size(self):
        return self.labels.shape[1]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Close the HDF5 file."""
        self.h5_file.close()

    def next_minibatch(self, minibatch_size, lod=0.0, shrink_based_on_lod=False):
        """Return the next random images and their labels.

        Parameters
        ----------
        minibatch_size : int
        lod : float
            Level of detail. Its fraction blends each image with its own 2x2 average, as while layers fade in.
        shrink_based_on_lod : bool
            True returns images at resolution / 2^floor(lod), False repeats them to full resolution.

        Returns
        -------
        images : uint8 (minibatch_size, C, H, W)
        labels : float32 (minibatch_size, label_size)
        """
        positions = (self.position + np.arange(minibatch_size)) % len(self.order)
        indices = self.order[positions]
        self.position = (self.position + minibatch_size) % len(self.order)
        for position, distance in zip(positions, np.random.randint(self.window, size=minibatch_size), strict=True):
            other = (position - distance) % len(self.order)
            self.order[position], self.order[other] = self.order[other], self.order[position]
        images = self.read(indices, int(np.floor(lod)))
        if self.mirror_augment:
            flipped = np.random.rand(minibatch_size) < 0.5
            images[flipped] = images[flipped, :, :, ::-1]
        images = blend_with_average(images, lod - np.floor(lod))
        if not shrink_based_on_lod:
            factor = 2 ** int(np.floor(lod))
            images = images.repeat(factor, axis=2).repeat(factor, axis=3)
        return images, self.labels[indices]

    def get_images(self, indices):
        """Full-resolution images and labels by index."""
        return self.read(np.asarray(indices), 0), self.labels[indices]

    def random_labels(self, num):
        """Labels of `num` random images; the draw is made even if there are no labels."""
        return self.labels[np.random.randint(len(self.labels), size=num)]

    def read(self, indices, level):
        """Images (uint8, a copy) of one level by index."""
        data = self.levels[level]
        if isinstance(data, np.ndarray):
            return data[indices]
        unique, inverse = np.unique(indices, return_inverse=True)
        return data[unique][inverse]


def blend_with_average(images, fraction):
    """`images` moved by `fraction` towards their own 2x2 averages; in float64, then truncated to uint8."""
    if fraction == 0:
        return images
    n, c, h, w = images.shape
    averages = images.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5), keepdims=True)
    averages = np.broadcast_to(averages, (n, c, h // 2, 2, w // 2, 2)).reshape(n, c, h, w)
    return (images + (averages - images) * fraction).astype(np.uint8)

"""Labels of datasets: found by the name in the file, one-hot or refused, also with classes that have no images."""

import os
import struct
import warnings

import h5py
import numpy as np
import pytest
from PIL import Image

import train
from common import class_names
from common.errors import UserError
from data import hdf5_format, tfrecords
from data.dataset import Dataset
from data.hdf5_format import LABEL_ATTRIBUTES, check_one_hot, read_class_names
from data.hdf5_writer import HDF5Writer
from tests.helpers import run_tool
from training import snapshots

IMAGES = np.random.RandomState(0).randint(256, size=(12, 1, 8, 8), dtype=np.uint8)
LABELS = np.eye(4, dtype=np.float32)[np.arange(12) % 3]      # No image has class 3.
NAMES = ['ant', 'cat', 'dog', 'eel']


def write(path, labels=LABELS, names=NAMES, images=IMAGES):
    with HDF5Writer(path, 8, 1, labels, class_names=names) as writer:
        writer.add_images(images)
    return path


# ----------------------------------------------------------------------------------------------------------------------
# Labels that are not one-hot.


def with_rows(rows):
    labels = LABELS.copy()
    for row, values in rows.items():
        labels[row] = values
    return labels


@pytest.mark.parametrize('labels, message', [
    (np.arange(12)[:, np.newaxis] % 3,
     'x: 8 of 12 rows are not one-hot: the file holds class numbers from 0 to 2 in one column (rows 0, 2, 3, 5, 6, 8, '
     '9, 11); make them one-hot with numpy.eye'),
    (np.where(LABELS, 1, -1),
     'x: 12 of 12 rows are not one-hot: 12 with negative values, such as attributes of -1 or 1 (rows 0, 1, 2, 3, '
     '4, 5, 6, 7, 8, 9, ...); correct them'),
    (with_rows({3: np.nan, 5: np.inf}), '2 of 12 rows are not one-hot: 2 with values that are not finite (rows 3, 5)'),
    (with_rows({3: 0}), '1 of 12 rows are not one-hot: 1 without a class (row 3)'),
    (with_rows({3: 1, 4: 0, 5: [.5, 0, 0, 0], 6: [.5, .5, 0, 0]}),
     '4 of 12 rows are not one-hot: 1 without a class (row 4), 2 with several classes (rows 3, 6), 1 with a value '
     'other than 1 (row 5); correct them, or train without labels: dataset.max_labels=0'),
])
def test_rows_that_are_not_one_hot_are_named(labels, message):
    with pytest.raises(UserError) as raised:
        check_one_hot(labels.astype(np.float32), 'x')
    assert message in str(raised.value) and '\n' not in str(raised.value)


def test_one_hot_labels_and_none_pass():
    for labels in (LABELS, LABELS[:, :0], np.ones((3, 1))):
        check_one_hot(labels, 'x')


TINY = ['dataset.h5_path=set.h5', 'dataset.resolution=8', 'G.fmap_max=4', 'D.fmap_max=4', 'metrics=[]',
        'train.total_kimg=0.004', 'train.minibatch_default=4', 'train.show_progress=False']


def start(tmp_path, *options, experiment=()):
    words = [*experiment, '--data-dir', str(tmp_path), '--result-dir', str(tmp_path / 'results')]
    for option in (*TINY, *options):
        words += ['--set', option]
    return train.main(words)


def test_training_refuses_them_and_leaves_nothing(tmp_path, capsys):
    write(tmp_path / 'set.h5')
    np.save(tmp_path / 'set-labels.npy', np.where(LABELS, 1, -1))
    assert start(tmp_path, 'train.image_grid_type=default') == 1
    out, err = capsys.readouterr()
    assert err.count('\n') == 1 and 'set-labels.npy: 12 of 12 rows are not one-hot: 12 with negative' in err
    assert not list((tmp_path / 'results').iterdir())
    with Dataset(tmp_path / 'set.h5', max_labels=0) as reader:      # Without labels, they do not matter.
        reader.check_labels()


@pytest.mark.parametrize('grid_type', ['category', 'category-rows'])
def test_a_class_without_images_is_reported_and_has_empty_cells(grid_type, tmp_path, capsys):
    with Dataset(write(tmp_path / 'a.h5')) as reader:
        reader.check_labels()
        assert 'a-labels.npy: no image has the class 3 eel\n' in capsys.readouterr().out

        class G:
            input_shape = [None, 5]
            input_shapes = [[None, 5], [None, 4]]
        grid = snapshots.setup_snapshot_grid(G, reader, None, grid_type)
    images = 16         # Of each of so few classes, as many as fit on a screen.
    classes = np.arange(images * 4).reshape(images, 4) % 4
    classes = (classes if grid_type == 'category' else classes.T).ravel()
    np.testing.assert_array_equal(grid.labels, np.eye(4)[classes])
    np.testing.assert_array_equal(grid.reals.any(axis=(1, 2, 3)), classes < 3)
    for real, number in zip(grid.reals, classes, strict=True):
        assert number == 3 or any((real == image).all() for image in IMAGES[number::3])


# ----------------------------------------------------------------------------------------------------------------------
# Missing labels.


def test_a_file_says_that_it_has_labels(tmp_path, capsys):
    with h5py.File(write(tmp_path / 'a.h5')) as h5:
        assert set(h5.attrs) == set(LABEL_ATTRIBUTES)
        assert h5.attrs['label_size'] == 4 and read_class_names(h5) == NAMES
    with h5py.File(write(tmp_path / 'plain.h5', None, None)) as h5:
        assert not list(h5.attrs) and read_class_names(h5) is None
    assert 'Classes             0 ant, 1 cat, 2 dog, 3 eel\n' in run_tool(capsys, 'inspect', tmp_path / 'a.h5')[1]


@pytest.mark.parametrize('argv', [['inspect', 'a.h5'], ['display', 'a.h5'], ['compare', 'a.h5', 'a.h5'],
                                  ['merge', 'b.h5', 'a.h5', 'a.h5'], ['merge', 'b.h5', 'a.h5', '--virtual']])
def test_labels_that_are_missing_are_an_error(argv, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write('a.h5')
    os.remove('a-labels.npy')
    status, _out, err = run_tool(capsys, *argv)
    assert status == 1 and err.count('\n') == 1
    assert 'a-labels.npy: is missing; it holds the labels (4 classes) of a.h5; copy it here' in err
    with pytest.raises(UserError, match='a-labels.npy: is missing'):
        Dataset('a.h5')
    with Dataset('a.h5', max_labels=0) as reader:
        assert reader.label_size == 0


def test_files_of_the_release_without_the_attribute_are_read(tmp_path):
    with h5py.File(write(tmp_path / 'a.h5'), 'r+') as h5:
        for name in LABEL_ATTRIBUTES:
            del h5.attrs[name]
    with Dataset(tmp_path / 'a.h5') as reader:
        assert reader.label_size == 4
    os.remove(tmp_path / 'a-labels.npy')
    with Dataset(tmp_path / 'a.h5') as reader:
        assert reader.label_size == 0


def test_a_conditional_experiment_needs_labels(tmp_path, capsys):
    """A conditional experiment needs labels even if the dataset does not record that it had some."""
    write(tmp_path / 'set.h5', None, None, IMAGES.repeat(3, axis=1)[:, :1])
    assert start(tmp_path, experiment=['--experiment', 'cifar10-cond']) == 1
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'set-labels.npy: is missing, and this training is conditional on labels' in err
    assert start(tmp_path, experiment=['--experiment', 'cifar10-cond', '--dry-run']) == 1
    assert 'set-labels.npy: is missing, and this training is conditional on labels' in capsys.readouterr().err
    assert start(tmp_path, 'train.image_grid_type=category') == 1
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and "the dataset has no labels; add" in err and 'set-labels.npy' in err
    with pytest.raises(UserError, match='max_labels=0: this training is conditional'):
        Dataset(tmp_path / 'set.h5', max_labels=0, require_labels=True)


def test_labels_are_found_where_a_file_is_linked_or_renamed(tmp_path, capsys):
    write(tmp_path / 'a.h5')
    (tmp_path / 'links').mkdir()
    (tmp_path / 'links' / 'b.h5').symlink_to(tmp_path / 'a.h5')
    (tmp_path / 'other').mkdir()
    write(tmp_path / 'other' / 'x.h5', LABELS[::-1])
    (tmp_path / 'other' / 'x-labels.npy').rename(tmp_path / 'x-labels.npy')
    (tmp_path / 'junk-labels.npy').write_text('no array')
    with Dataset(tmp_path / 'links' / 'b.h5') as reader:
        np.testing.assert_array_equal(reader.labels, LABELS)
    capsys.readouterr()
    (tmp_path / 'a.h5').rename(tmp_path / 'c.h5')
    with Dataset(tmp_path / 'c.h5') as reader:
        np.testing.assert_array_equal(reader.labels, LABELS)
    assert capsys.readouterr().out == f'{tmp_path / "c.h5"}: uses the labels in {tmp_path / "a-labels.npy"}\n'
    write(tmp_path / 'd.h5')
    (tmp_path / 'a-labels.npy').unlink()
    (tmp_path / 'd-labels.npy').unlink()
    with pytest.raises(UserError, match='c-labels.npy: is missing'):     # x-labels.npy belongs to another file.
        Dataset(tmp_path / 'c.h5')


@pytest.mark.parametrize('virtual', [False, True])
def test_labels_and_names_travel_with_merge(virtual, tmp_path, capsys):
    for name in 'ab':
        write(tmp_path / f'{name}.h5')
    words = [tmp_path / 'c.h5', tmp_path / 'a.h5', tmp_path / 'b.h5'] + ['--virtual'] * virtual
    assert run_tool(capsys, 'merge', *words)[0] == 0
    with h5py.File(tmp_path / 'c.h5') as h5:
        assert read_class_names(h5) == NAMES and h5.attrs['label_size'] == 4
        assert bytes(h5.attrs['labels_sha256']).decode() == hdf5_format.labels_digest(np.concatenate([LABELS, LABELS]))
    with Dataset(tmp_path / 'c.h5') as reader:
        np.testing.assert_array_equal(reader.labels, np.concatenate([LABELS, LABELS]))


def test_classes_of_other_names_are_not_merged(tmp_path, capsys):
    write(tmp_path / 'a.h5')
    write(tmp_path / 'b.h5', names=['ant', 'bee', 'dog', 'eel'])
    status, _out, err = run_tool(capsys, 'merge', tmp_path / 'c.h5', tmp_path / 'a.h5', tmp_path / 'b.h5')
    assert status == 1 and err.count('\n') == 1 and "has other class names than" in err
    assert "('bee' instead of 'cat')" in err and not (tmp_path / 'c.h5').exists()


def test_names_of_folders_are_kept(tmp_path, capsys):
    for name in ('Käse', 'ant'):
        (tmp_path / 'images' / name).mkdir(parents=True)
        Image.new('L', (8, 8)).save(tmp_path / 'images' / name / '1.png')
    assert run_tool(capsys, 'create_from_images', tmp_path / 'images', tmp_path / 'a.h5')[0] == 0
    assert 'Classes             0 Käse, 1 ant\n' in run_tool(capsys, 'inspect', tmp_path / 'a.h5')[1]


def test_names_that_do_not_fit_into_the_file_are_reported(tmp_path, capsys):
    labels = np.eye(2000, dtype=np.float32)[:12]
    with h5py.File(write(tmp_path / 'a.h5', labels, ['n' * 40] * 2000)) as h5:
        assert read_class_names(h5) is None and h5.attrs['label_size'] == 2000
    assert 'The names of the 2000 classes are too long and are not stored\n' in capsys.readouterr().out


def test_labels_of_python_2_are_read_in_silence(tmp_path):
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1L, 2L), }"
    head += b' ' * (-(len(head) + 11) % 64) + b'\n'
    (tmp_path / 'a.npy').write_bytes(b'\x93NUMPY\1\0' + struct.pack('<H', len(head)) + head + struct.pack('<2f', 0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for labels in (hdf5_format.load_labels(tmp_path / 'a.npy', 1), tfrecords.read_labels([tmp_path / 'a.npy'], 1)):
            np.testing.assert_array_equal(labels, [[0, 1]])


# ----------------------------------------------------------------------------------------------------------------------
# HDF5 files with the right names and unreadable contents.


def typed(kind):
    return lambda h5, name, shape: h5py.h5d.create(h5.id, name, kind, h5py.h5s.create_simple(shape))


def quad():
    kind = h5py.h5t.IEEE_F64LE.copy()
    kind.set_size(16)
    kind.set_precision(128)
    kind.set_fields(127, 112, 15, 0, 112)
    kind.set_ebias(16383)
    return kind


@pytest.mark.parametrize('make', [
    typed(h5py.h5t.UNIX_D32LE), typed(quad()), lambda h5, name, _shape: h5.__setitem__(name, h5py.SoftLink('/gone')),
    lambda h5, name, _shape: h5.__setitem__(name, h5py.ExternalLink('gone.h5', '/x'))],
    ids=['time', 'quad', 'soft link', 'external link'])
@pytest.mark.parametrize('argv', [['inspect', 'a.h5'], ['extract', 'a.h5', 'images'], ['compare', 'b.h5', 'a.h5'],
                                  ['merge', 'c.h5', 'a.h5', 'b.h5'], ['display', 'a.h5']])
def test_types_and_links_that_cannot_be_read(argv, make, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write('b.h5', None, None)
    with h5py.File('a.h5', 'w') as h5:
        for res in (4, 2, 1):
            make(h5, b'data%dx%d' % (res, res), (2, 1, res, res))
    status, _out, err = run_tool(capsys, *argv)
    assert status == 1 and err.count('\n') == 1 and "h5_path='a.h5': data" in err
    assert sorted(os.listdir()) == ['a.h5', 'b.h5']


# ----------------------------------------------------------------------------------------------------------------------
# Names of classes.


def test_classes_of_a_data_set_by_name(tmp_path):
    path = write(tmp_path / 'a.h5')
    with Dataset(path, classes=['dog', 'ant']) as by_name, Dataset(path, classes=[2, 0]) as by_number:
        assert by_name.class_names == by_number.class_names == ['dog', 'ant']
        np.testing.assert_array_equal(by_name.labels, by_number.labels)
        np.testing.assert_array_equal(by_name.chosen, by_number.chosen)
    with Dataset(path) as whole, Dataset(path, max_labels=0) as without, Dataset(path, max_labels=2) as two:
        assert (whole.class_names, without.class_names, two.class_names) == (NAMES, None, NAMES[:2])
    for classes, message in ((['dog', 2], 'different columns'), (['dgo'], "did you mean 'dog'"),
                             ([4], 'or their names')):
        with pytest.raises(UserError, match=message):
            Dataset(path, classes=classes)


def test_a_file_names_the_classes(tmp_path, capsys):
    for number, color in enumerate(['red', 'green', 'blue']):
        os.makedirs(tmp_path / 'in' / str(number))
        Image.new('RGB', (8, 8), color).save(tmp_path / 'in' / str(number) / 'a.png')
    (tmp_path / 'names.txt').write_text('red\ngreen\nblue\n', encoding='utf-8')
    argv = ['create_from_images', tmp_path / 'in', tmp_path / 'a.h5', '--force', '--class-names',
            tmp_path / 'names.txt']
    assert run_tool(capsys, *argv)[0] == 0
    with h5py.File(tmp_path / 'a.h5') as h5:
        assert read_class_names(h5) == ['red', 'green', 'blue']
    (tmp_path / 'names.txt').write_text('red\ngreen\n', encoding='utf-8')
    status, _out, err = run_tool(capsys, *argv)
    assert status == 1 and 'names.txt: has 2 names for 3 classes; write one per line' in err


def test_the_sheet_has_the_names_of_its_rows(tmp_path, capsys):
    ratios = []
    for names in (NAMES, None):     # Without names there are numbers, which are shorter.
        path = write(tmp_path / 'a.h5', names=names) if names else write(tmp_path / 'b.h5', names=None)
        out = run_tool(capsys, 'inspect', path, '--sheet', tmp_path / 'sheet.png')[1]
        assert 'Wrote 12 images of 3 classes' in out       # No row without images.
        with Image.open(tmp_path / 'sheet.png') as sheet:
            ratios.append(sheet.width / sheet.height)
    assert ratios[0] > ratios[1] > 4 / 3


def test_a_run_keeps_the_names_of_its_classes(tmp_path, capsys):
    write(tmp_path / 'set.h5')
    assert start(tmp_path, "dataset.classes=['dog', 'ant']", 'train.lod_initial_resolution=8') == 0
    run_dir, = (tmp_path / 'results').iterdir()
    assert class_names.read_class_names(run_dir, 2) == ['dog', 'ant']

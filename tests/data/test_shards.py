"""data/shards.py: shards of a dataset are joined to one file, or to a virtual file that refers to them."""

import argparse
import os
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

import dataset_tool
from common.errors import UserError
from data import celebahq_files, dataset, hdf5_writer
from data.chunk_reader import JoinedReader, open_readers
from data.hdf5_format import labels_path, open_levels
from data.image_source import array_source, write_dataset
from data.shards import merge, parse_shard, shard_range

IMAGES = np.random.RandomState(0).randint(256, size=(150, 3, 16, 16), dtype=np.uint8)
LABELS = np.eye(4, dtype=np.float32)[np.arange(150) % 4]


def write_parts(folder, count, images=IMAGES, labels=LABELS):
    """Write the files of all shards, with labels."""
    paths = [folder / f'part{number}.h5' for number in range(1, count + 1)]
    for number, path in enumerate(paths, 1):
        write_dataset(array_source([images], labels), path, shard=(number, count))
    return paths


def write_whole(folder, images=IMAGES, labels=LABELS):
    write_dataset(array_source([images], labels), folder / 'whole.h5')
    return folder / 'whole.h5'


# ----------------------------------------------------------------------------------------------------------------------
# Making shards.


@pytest.mark.parametrize('num_images, count', [(10, 1), (10, 3), (1797, 8), (3, 3), (2, 5), (30000, 7)])
def test_parts_follow_each_other_and_are_about_equal(num_images, count):
    ranges = [shard_range(num_images, (number, count)) for number in range(1, count + 1)]
    assert [index for part in ranges for index in part] == list(range(num_images))
    assert {len(part) for part in ranges} <= {num_images // count, -(-num_images // count)}
    assert shard_range(num_images, None) == range(num_images)


def test_the_option(capsys):
    assert parse_shard('2/8') == (2, 8)
    for text in ('0/3', '4/3', '1', '1/0', '-1/3', 'a/b', '1/3/5', ''):
        with pytest.raises(argparse.ArgumentTypeError, match='must be I/N'):
            parse_shard(text)
    with pytest.raises(SystemExit):
        dataset_tool.main(['create_digits', 'a.h5', '--shard', '9/8'])
    assert "argument --shard: '9/8': must be I/N, shard I of N" in capsys.readouterr().err


def test_more_parts_than_images(tmp_path):
    with pytest.raises(UserError, match='--shard 1/5: there are only 2 images; use fewer shards'):
        write_dataset(array_source([IMAGES[:2]]), tmp_path / 'a.h5', shard=(1, 5))
    assert os.listdir(tmp_path) == []


def test_parts_of_celebahq(tmp_path):
    """Shards divide the images that the other options select."""
    (tmp_path / 'Anno').mkdir()
    (tmp_path / 'Anno' / 'list_landmarks_celeba.txt').write_text('9\nnames\n' + ''.join(
        f'{number:06d}.jpg 1 2 3 4 5 6 7 8 9 10\n' for number in range(1, 10)))
    (tmp_path / 'image_list.txt').write_text('idx orig_idx orig_file proc_md5 final_md5\n' + ''.join(
        f'{index} {index} {index + 1:06d}.jpg {index:032x} {index:032x}\n' for index in range(8)))
    expected = celebahq_files.Expected(9, 8, '')
    parts = [[entry.idx for entry in celebahq_files.read_lists(
        tmp_path, tmp_path, '1-7', expected=expected, shard=(number, 3))] for number in (1, 2, 3)]
    assert parts == [[1, 2], [3, 4], [5, 6, 7]]
    with pytest.raises(UserError, match='--shard 1/9: there are only 8 images; use fewer shards'):
        celebahq_files.read_lists(tmp_path, tmp_path, expected=expected, shard=(1, 9))


@pytest.mark.parametrize('command', [name for name in dataset_tool.COMMANDS if name.startswith('create_')])
def test_every_create_command_has_the_option(command):
    paths = {'create_digits': 1, 'create_synthetic': 1, 'create_celebahq': 3}.get(command, 2)
    words = [command, *['a', 'b', 'c'][:paths]]
    assert dataset_tool.parse_arguments([*words, '--shard', '2/3']).shard == (2, 3)


def test_a_part_is_a_dataset_and_says_which(tmp_path, capsys):
    paths = write_parts(tmp_path, 3)
    with dataset.Dataset(paths[1]) as reader:
        images, labels = reader.get_images(range(50))
    np.testing.assert_array_equal(images, IMAGES[50:100])
    np.testing.assert_array_equal(labels, LABELS[50:100])
    dataset_tool.main(['inspect', str(paths[1])])
    assert 'Shard               2 of 3; join the shards with merge\n' in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------------------
# Joining.


@pytest.mark.parametrize('group_bytes', [1, 5000, 1 << 20])
@pytest.mark.parametrize('channels', [1, 3])
def test_a_copy_is_the_file_of_a_single_writer_byte_for_byte(channels, group_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_writer, 'GROUP_BYTES', group_bytes)
    whole = write_whole(tmp_path, IMAGES[:, :channels])
    first, *others = write_parts(tmp_path, 4, IMAGES[:, :channels])
    merge(tmp_path / 'joined.h5', [*others, first])     # merge sorts them by their numbers.
    assert (tmp_path / 'joined.h5').read_bytes() == whole.read_bytes()
    np.testing.assert_array_equal(np.load(tmp_path / 'joined-labels.npy'), LABELS)


def test_a_virtual_dataset_has_the_same_pixels(tmp_path):
    whole, parts = write_whole(tmp_path), write_parts(tmp_path, 4)
    merge(tmp_path / 'new' / 'joined.h5', parts, virtual=True)
    assert (tmp_path / 'new' / 'joined.h5').stat().st_size < 10000
    np.testing.assert_array_equal(np.load(tmp_path / 'new' / 'joined-labels.npy'), LABELS)
    expected = open_levels(whole)[1]
    h5, levels = open_levels(tmp_path / 'new' / 'joined.h5')
    with h5, open_readers(h5, list(levels.values())) as readers:
        for (res, level), reader in zip(levels.items(), readers, strict=True):
            np.testing.assert_array_equal(level[:], expected[res][:])
            assert isinstance(reader, JoinedReader)
            np.testing.assert_array_equal([reader.read(index) for index in range(150)], expected[res][:])


@pytest.mark.parametrize('cache_gb', [0, 1])
def test_a_virtual_dataset_is_trained_on_like_the_whole(cache_gb, tmp_path, monkeypatch):
    """A virtual dataset is read without HDF5, whose lock would make the threads wait for each other."""
    monkeypatch.setattr('data.chunk_reader.read_image', lambda *_args: pytest.fail('read by h5py'))
    whole, parts = write_whole(tmp_path), write_parts(tmp_path, 4)
    merge(tmp_path / 'joined.h5', parts, virtual=True)
    results = []
    for path in (whole, tmp_path / 'joined.h5'):
        np.random.seed(3)
        with dataset.Dataset(path, mirror_augment=True, prefetch_images=20, cache_gb=cache_gb) as reader:
            results.append([reader.next_minibatch(40, lod) for lod in (0, 0.3, 1, 2.5, 4)])
    for (images, labels), (joined_images, joined_labels) in zip(*results, strict=True):
        np.testing.assert_array_equal(joined_images, images)
        np.testing.assert_array_equal(joined_labels, labels)


def test_virtual_datasets_can_be_joined_again(tmp_path):
    """Two virtual files of two shards each are joined to a third one in another folder, which is then copied."""
    whole, parts = write_whole(tmp_path), write_parts(tmp_path, 4)
    for number in (0, 2):
        halves = [without_number(part) for part in parts[number:number + 2]]
        merge(tmp_path / f'half{number}.h5', halves, virtual=True)
    merge(tmp_path / 'new' / 'joined.h5', [tmp_path / 'half0.h5', tmp_path / 'half2.h5'], virtual=True)
    merge(tmp_path / 'copy.h5', [tmp_path / 'new' / 'joined.h5'])
    assert (tmp_path / 'copy.h5').read_bytes() == whole.read_bytes()
    with h5py.File(tmp_path / 'new' / 'joined.h5') as h5:
        np.testing.assert_array_equal(h5['data16x16'][:], IMAGES)


def without_number(path):
    with h5py.File(path, 'a') as h5:
        del h5.attrs['shard']
    return path


def test_moving_a_virtual_dataset_with_its_parts(tmp_path, monkeypatch):
    (tmp_path / 'old').mkdir()
    monkeypatch.chdir(tmp_path)
    merge('old/joined.h5', write_parts(tmp_path / 'old', 2), virtual=True)
    shutil.move('old', 'new')
    os.symlink('new/joined.h5', 'link.h5')
    os.symlink('new/joined-labels.npy', 'link-labels.npy')
    for path in ('new/joined.h5', 'link.h5'):
        with dataset.Dataset(path, shuffle=False) as reader:
            np.testing.assert_array_equal(reader.next_minibatch(150)[0], IMAGES)


def test_datasets_of_other_layouts_are_compressed_again(tmp_path):
    """Uncompressed files without chunks, from another program, are joined in the given order."""
    whole = write_whole(tmp_path, labels=None)
    expected = open_levels(whole)[1]
    for name, images in (('a', slice(0, 33)), ('b', slice(33, 150))):
        with h5py.File(tmp_path / f'{name}.h5', 'w') as h5:
            for level in expected.values():
                kwargs = {'chunks': (1,) + level.shape[1:]} if name == 'b' else {}
                h5.create_dataset(level.name, data=level[images], **kwargs)
    merge(tmp_path / 'joined.h5', [tmp_path / 'a.h5', tmp_path / 'b.h5'])
    assert (tmp_path / 'joined.h5').read_bytes() == whole.read_bytes()
    merge(tmp_path / 'joined.h5', [tmp_path / 'b.h5', tmp_path / 'a.h5'], virtual=True, force=True)
    with h5py.File(tmp_path / 'joined.h5') as h5:
        np.testing.assert_array_equal(h5['data16x16'][:], np.roll(IMAGES, -33, axis=0))


@pytest.mark.parametrize('virtual', [False, True])
def test_the_commands(virtual, tmp_path, capsys):
    paths = [str(tmp_path / f'{number}.h5') for number in (1, 2)]
    whole, joined = str(tmp_path / 'whole.h5'), str(tmp_path / 'joined.h5')
    for number in range(21):
        folder = tmp_path / 'images' / 'abc'[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[number, 0]).save(folder / f'{number}.png')
    create = ['create_from_images', str(tmp_path / 'images')]
    join = ['merge', joined, *paths] + ['--virtual'] * virtual
    for argv in ([*create, whole], [*create, paths[0], '--shard', '1/2'], [*create, paths[1], '--shard=2/2'], join,
                 ['compare', whole, joined], ['inspect', joined, '--verify']):
        assert dataset_tool.main(argv) == 0
    out = capsys.readouterr().out
    assert 'All 21 images are identical.' in out and 'All labels are identical.' in out and 'Verified' in out
    assert (f'Joined from         {", ".join(paths)}' in out) == virtual
    assert dataset_tool.main(join) == 1
    assert 'joined.h5: exists; choose another name, or add --force' in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------------
# Shards that do not fit together.


@pytest.mark.parametrize('virtual', [False, True])
def test_parts_that_do_not_fit_together(virtual, tmp_path):
    parts = write_parts(tmp_path, 3)
    write_dataset(array_source([IMAGES[:, :1]]), tmp_path / 'grey.h5')
    write_dataset(array_source([IMAGES]), tmp_path / 'plain.h5')
    for name, shard, labels in (('four', (4, 4), LABELS), ('unlabelled', (3, 3), None), ('wide', (3, 3), np.eye(150))):
        write_dataset(array_source([IMAGES], labels), tmp_path / (name + '.h5'), shard=shard)
    before = sorted(os.listdir(tmp_path))
    for names, message in [
            (['part1', 'part3'], r'1 of 3 shards are missing: --shard 2/3; make them'),
            (['part1', 'part2', 'part2', 'part3'], r'part2.h5 and .*part2.h5: are both shard 2 of 3'),
            (['part1', 'part2', 'four'], r'four.h5: is shard 4 of 4, but .*part1.h5 is one of 3'),
            (['part1', 'part2', 'plain'], r'plain.h5: is shard 1 of 1, but .*part1.h5 is one of 3'),
            (['plain', 'grey'], r'grey.h5: has images of \(1, 16, 16\), .*plain.h5 of \(3, 16, 16\)'),
            (['part1', 'part2', 'unlabelled'], r'unlabelled-labels.npy: is missing, while other files have labels'),
            (['part1', 'part2', 'wide'], r'wide-labels.npy: has 150 columns, .*part1-labels.npy has 4'),
            (['part1', 'none'], r'none.h5.: no such file'),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            merge(tmp_path / 'joined.h5', [tmp_path / (name + '.h5') for name in names], virtual)
        assert '\n' not in str(raised.value)
    with pytest.raises(UserError, match='part1.h5: is one of the files to join; choose another name'):
        merge(parts[0], parts, virtual, force=True)
    with pytest.raises(UserError, match='cannot be written'):
        merge(tmp_path / 'plain.h5' / 'joined.h5', parts, virtual)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_part_that_is_damaged_where_it_is_copied(tmp_path):
    """Joining copies compressed chunks without reading them, but reads the small levels."""
    parts = write_parts(tmp_path, 2)
    with h5py.File(parts[1]) as h5:
        chunk = h5['data4x4'].id.get_chunk_info(3)
    with open(parts[1], 'r+b') as file:
        file.seek(chunk.byte_offset + 2)
        file.write(b'\xff\xff\xff\xff')
    with pytest.raises(UserError, match='part2.h5: image 9 at 4x4 cannot be read'):
        merge(tmp_path / 'joined.h5', parts)
    assert not (tmp_path / 'joined.h5').exists()


# ----------------------------------------------------------------------------------------------------------------------
# Virtual datasets whose files have changed. HDF5 would return black images.


def test_a_missing_part(tmp_path):
    parts = write_parts(tmp_path, 2)
    merge(tmp_path / 'joined.h5', parts, virtual=True)
    parts[1].rename(tmp_path / 'elsewhere.h5')
    with h5py.File(tmp_path / 'joined.h5') as h5:
        assert not h5['data16x16'][-1].any()
    with pytest.raises(UserError, match=r'joined.h5.: one of the files it consists of is missing or '
                                             r'damaged: h5_path=.*part2.h5.: no such file'):
        dataset.Dataset(tmp_path / 'joined.h5')


def test_a_part_with_other_images_than_before(tmp_path):
    parts = write_parts(tmp_path, 2)
    merge(tmp_path / 'joined.h5', parts, virtual=True)
    for changed in (IMAGES[:74], IMAGES[:75, :1], IMAGES[:75, :, ::2, ::2]):
        write_dataset(array_source([changed]), parts[1], force=True)
        with pytest.raises(UserError, match='joined.h5.: .*part2.h5 has changed; join'):
            open_levels(tmp_path / 'joined.h5')


def test_other_virtual_datasets(tmp_path):
    """Virtual datasets with a hole, or with levels from different files."""
    parts = write_parts(tmp_path, 2, labels=None)
    for changed_places in ({0: parts[0]}, {0: parts[1], 75: parts[0]}):
        with h5py.File(tmp_path / 'joined.h5', 'w') as h5:
            for res in (16, 8, 4, 2, 1):
                layout = h5py.VirtualLayout((150, 3, res, res), np.uint8)
                places = {0: parts[0], 75: parts[1]} if res > 1 else changed_places
                for start, part in places.items():
                    layout[start:start + 75] = h5py.VirtualSource(part, f'data{res}x{res}', (75, 3, res, res))
                h5.create_virtual_dataset(f'data{res}x{res}', layout)
        with pytest.raises(UserError, match='joined.h5.: is a virtual dataset that'):
            open_levels(tmp_path / 'joined.h5')


def test_labels_are_replaced_or_deleted_with_the_file(tmp_path):
    merge(tmp_path / 'joined.h5', write_parts(tmp_path, 2), virtual=True)
    write_dataset(array_source([IMAGES[:5]]), tmp_path / 'plain.h5')
    merge(tmp_path / 'joined.h5', [tmp_path / 'plain.h5'], virtual=True, force=True)
    assert not os.path.exists(labels_path(tmp_path / 'joined.h5'))
    assert open_levels(tmp_path / 'joined.h5')[1][16].shape == (5, 3, 16, 16)

"""hdf5_format: the files equal those of the release; they are complete or absent; wrong layouts are errors."""

import os
import re
import signal
import subprocess
import sys
import time
import zlib

import h5py
import numpy as np
import pytest

from common.errors import UserError
from common.files import temporary_path
from data import hdf5_format, hdf5_writer
from data.hdf5_format import is_locked, open_levels
from data.hdf5_writer import HDF5Writer
from tests.helpers import ROOT, check_h5_file, heed_interrupts, load_golden

try:
    import resource
except ImportError:
    resource = None

needs_limits = pytest.mark.skipif(resource is None, reason='Windows cannot limit the size of files')

ARRAYS, META = load_golden('h5tool_custom')


# ----------------------------------------------------------------------------------------------------------------------
# Writing.


@pytest.mark.parametrize('group_bytes', [1, 10000, 1 << 22])
def test_the_recorded_exporter_file(group_bytes, tmp_path, monkeypatch):
    """Images of 16x16, 32x32 and floats give the recorded files for any group size."""
    monkeypatch.setattr(hdf5_writer, 'GROUP_BYTES', group_bytes)
    counts = []
    with HDF5Writer(tmp_path / 'new' / 'a.h5', 16, 3) as writer:
        writer.add_images(ARRAYS['exporter_source_a'])
        counts.append(writer.num_images)
        writer.add_images(ARRAYS['exporter_source_b_32'])
        writer.add_images(ARRAYS['exporter_source_c_float'])
        counts.append(writer.num_images)
    assert counts == META['exporter']['_num_images']
    check_h5_file(tmp_path / 'new' / 'a.h5', (ARRAYS, META), 'exporter')
    assert os.listdir(tmp_path / 'new') == ['a.h5']


def write_noise(h5_path, num_threads, group_sizes):
    """Write grey 32x32 images, whose levels have chunks of 1, 1, 2, 8, 32 and 128 images."""
    images = np.random.RandomState(0).randint(256, size=(sum(group_sizes), 1, 32, 32), dtype=np.uint8)
    with HDF5Writer(h5_path, 32, 1, num_threads=num_threads) as writer:
        for group in np.split(images, np.cumsum(group_sizes)[:-1]):
            writer.add_images(group)
            group[:] = 0    # The writer must have a copy.
    return h5_path.read_bytes()


def test_the_same_images_make_the_same_bytes(tmp_path, monkeypatch):
    """The bytes do not depend on the number of threads, the portions of images or the time."""
    monkeypatch.setattr(hdf5_writer, 'GROUP_BYTES', 7 << 10)
    first = write_noise(tmp_path / 'a.h5', 1, [300])
    time.sleep(1.1)
    assert write_noise(tmp_path / 'b.h5', 3, [300]) == first
    assert write_noise(tmp_path / 'c.h5', 3, [1] * 10 + [0, 80, 210]) == first


@pytest.mark.parametrize('compressor', ['libdeflate', 'zlib'])
def test_the_last_chunks_are_filled_up_with_zeros_as_hdf5_does(compressor, tmp_path, monkeypatch):
    if compressor == 'zlib':
        monkeypatch.setattr(hdf5_writer, 'zlib_compress', zlib.compress)
    else:
        assert hdf5_writer.zlib_compress.__module__.startswith('deflate')
    write_noise(tmp_path / 'a.h5', 2, [300])
    with h5py.File(tmp_path / 'a.h5') as h5, h5py.File(tmp_path / 'plain.h5', 'w') as plain:
        for name, level in h5.items():
            copy = plain.create_dataset(name, data=level[:], chunks=level.chunks, compression='gzip')
            assert level.id.get_num_chunks() == copy.id.get_num_chunks() == -(-300 // level.chunks[0])
            for start in range(0, 300, level.chunks[0]):
                chunks = [dataset.id.read_direct_chunk((start, 0, 0, 0)) for dataset in (level, copy)]
                assert [mask for mask, _data in chunks] == [0, 0]
                assert zlib.decompress(chunks[0][1]) == zlib.decompress(chunks[1][1])


def test_memory_is_bounded(tmp_path, monkeypatch):
    """At most one group more than there are threads waits for compression, however slow the threads are."""
    compress, waiting = hdf5_writer.compress, []
    monkeypatch.setattr(hdf5_writer, 'GROUP_BYTES', 1)
    monkeypatch.setattr(hdf5_writer, 'compress', lambda pixels: time.sleep(0.001) or compress(pixels))
    with HDF5Writer(tmp_path / 'a.h5', 8, 3, num_threads=2) as writer:
        for _ in range(50):
            writer.add_images(np.zeros((1, 3, 8, 8), np.uint8))
            waiting.append(len(writer.groups))
    assert max(waiting) == 3
    assert open_levels(tmp_path / 'a.h5')[1][8].shape == (50, 3, 8, 8)


def test_an_error_in_a_thread_is_raised_and_nothing_is_left(tmp_path, monkeypatch):
    def fail(_pixels):
        raise MemoryError('compress')
    monkeypatch.setattr(hdf5_writer, 'compress', fail)
    with pytest.raises(MemoryError, match='compress'), HDF5Writer(tmp_path / 'a.h5', 8, 3) as writer:
        writer.add_images(np.zeros((1, 3, 8, 8), np.uint8))
    assert os.listdir(tmp_path) == []


def write(h5_path, value=7, num=3, labels=None, force=False):
    with HDF5Writer(h5_path, 4, 1, labels, force) as writer:
        writer.add_images(np.full((num, 1, 4, 4), value, dtype=np.uint8))


def test_labels_lie_beside_the_file(tmp_path):
    write(tmp_path / 'a.b.h5', labels=np.eye(3, dtype=np.int64))
    labels = np.load(tmp_path / 'a.b-labels.npy')
    assert labels.dtype == np.float32 and (labels == np.eye(3)).all()
    np.testing.assert_array_equal(hdf5_format.load_labels(tmp_path / 'a.b-labels.npy', 3), labels)


def test_an_existing_file_is_replaced_only_by_force_and_then_with_its_labels(tmp_path):
    write(tmp_path / 'a.h5', labels=np.eye(3))
    with pytest.raises(UserError, match='a.h5: exists; choose another name, or add --force'):
        write(tmp_path / 'a.h5', 8, labels=np.eye(3))
    write(tmp_path / 'a.h5', 8, force=True)
    assert os.listdir(tmp_path) == ['a.h5']
    with h5py.File(tmp_path / 'a.h5') as h5:
        assert (h5['data4x4'][:] == 8).all()


def test_labels_without_a_dataset(tmp_path):
    np.save(tmp_path / 'a-labels.npy', np.eye(3))
    with pytest.raises(UserError, match='a-labels.npy: exists and would pass for the labels'):
        write(tmp_path / 'a.h5')
    assert os.listdir(tmp_path) == ['a-labels.npy']
    write(tmp_path / 'a.h5', labels=np.eye(3)[::-1])
    np.testing.assert_array_equal(np.load(tmp_path / 'a-labels.npy'), np.eye(3)[::-1])


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_an_exception_leaves_nothing_or_the_old_file(error, tmp_path):
    for force in (False, True):
        with pytest.raises(error), HDF5Writer(tmp_path / 'a.h5', 4, 1, force=force) as writer:
            writer.add_images(np.zeros((1, 1, 4, 4), np.uint8))
            raise error
        assert os.listdir(tmp_path) == (['a.h5'] if force else [])
        if not force:
            write(tmp_path / 'a.h5')
    assert open_levels(tmp_path / 'a.h5')[1][4][0].max() == 7


def test_nothing_is_left_when_labels_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r'labels of shape \(4, 4\): need one row for each of the 3 images'):
        write(tmp_path / 'a.h5', labels=np.eye(4))
    with pytest.raises(UserError, match='no images were added'):
        write(tmp_path / 'a.h5', num=0)
    assert os.listdir(tmp_path) == []


# Writes at most 80 MB, then waits until it is killed.
WRITER = '''
import sys, time, numpy as np
from data.hdf5_writer import HDF5Writer
with HDF5Writer(sys.argv[1], 32, 3, np.zeros((10**6, 2))) as writer:
    for number in range(200):
        writer.add_images(np.random.randint(256, size=(100, 3, 32, 32), dtype=np.uint8))
        print(writer.num_images, flush=True)
    time.sleep(60)
'''


@pytest.mark.parametrize('signal_number', [getattr(signal, 'SIGKILL', signal.SIGTERM), signal.SIGINT])
def test_a_writer_that_is_killed_midway_leaves_no_dataset(signal_number, tmp_path):
    writer = subprocess.Popen([sys.executable, '-c', WRITER, str(tmp_path / 'a.h5')], cwd=ROOT, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts)
    while writer.stdout.readline() != '6000\n':
        assert writer.poll() is None
    writer.send_signal(signal_number)
    writer.communicate()
    with pytest.raises(UserError, match='a.h5.: no such file'):
        open_levels(tmp_path / 'a.h5')
    if signal_number == signal.SIGINT:
        assert os.listdir(tmp_path) == []
        return
    [leftover] = os.listdir(tmp_path)
    assert os.path.getsize(tmp_path / leftover) > 10 ** 6
    with pytest.raises(UserError, match='is the unfinished file of a writer'):
        open_levels(tmp_path / leftover)
    # Also not under another name.
    (tmp_path / leftover).rename(tmp_path / 'b.h5')
    with pytest.raises(UserError, match='b.h5.: is not a complete HDF5 file'):
        open_levels(tmp_path / 'b.h5')


REWRITER = '''
import sys, time, numpy as np
from data.hdf5_writer import HDF5Writer
for value in range(int(sys.argv[2]), int(sys.argv[2]) + 10**4):
    with HDF5Writer(sys.argv[1], 8, 1, np.full((50, 1), value), force=True) as writer:
        writer.add_images(np.full((50, 1, 8, 8), value % 256, np.uint8))
'''


def test_kills_at_any_moment_leave_a_complete_file_or_none(tmp_path):
    """The program replaces a small file several times in a hundredth of a second, until it is killed."""
    h5_path, random, found = tmp_path / 'a.h5', np.random.RandomState(0), 0
    for round_number in range(6):
        writer = subprocess.Popen([sys.executable, '-u', '-c', REWRITER, str(h5_path), str(1000 * round_number)],
                                  cwd=ROOT, text=True, stdout=subprocess.PIPE)
        while not writer.stdout.readline().startswith('Wrote'):     # Skip 'Removed': files of the last process.
            assert writer.poll() is None
        time.sleep(random.uniform(0, 0.05))
        writer.kill()
        writer.communicate()
        if not h5_path.exists():
            continue
        found += 1
        h5, opened = open_levels(h5_path)
        with h5:
            labels = hdf5_format.load_labels(hdf5_format.find_labels(h5, h5_path), 50)
            assert (labels == labels[0]).all() and labels[0, 0] >= 1000 * round_number
            for level in opened.values():
                assert (level[:] == int(labels[0, 0]) % 256).all()
    assert found    # Most kills happen during writing, while the old file exists.


def test_the_next_writer_removes_the_files_of_a_killed_one(tmp_path, capsys):
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    leftover = temporary_path(str(tmp_path / 'a.h5')).replace(f'-{os.getpid()}-', f'-{process.pid}-')
    other = temporary_path(str(tmp_path / 'a.h5'))     # Belongs to a living process: this one.
    for path in (leftover, other):
        with open(path, 'w'):
            pass
    write(tmp_path / 'a.h5')
    assert sorted(os.listdir(tmp_path)) == ['a.h5', os.path.basename(other)]
    assert f'Removed {leftover}' in capsys.readouterr().out


FULL_DISK = '''
import sys, numpy as np
from common.errors import UserError
from data.hdf5_writer import HDF5Writer
try:
    with HDF5Writer(sys.argv[1], 32, 3) as writer:
        for number in range(int(sys.argv[2])):
            writer.add_images(np.random.randint(256, size=(100, 3, 32, 32), dtype=np.uint8))
except UserError as error:
    print(error)
'''


@needs_limits
@pytest.mark.parametrize('num_groups', [4, 1000], ids=['when closing', 'midway'])
def test_a_full_disk(num_groups, tmp_path):
    """A limit on the size of files simulates a full disk."""
    limit = 1 << 20
    result = subprocess.run([sys.executable, '-c', FULL_DISK, str(tmp_path / 'a.h5'), str(num_groups)], cwd=ROOT,
                            text=True, capture_output=True,
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert (result.returncode, result.stderr) == (0, '')
    assert result.stdout == (f'h5_path={str(tmp_path / "a.h5")!r}: cannot be written (File too large); choose another '
                             'folder or free some space\n')
    assert os.listdir(tmp_path) == []


FULL_DISK_LABELS = '''
import sys, numpy as np
from common.errors import UserError
from data.hdf5_writer import HDF5Writer
try:
    with HDF5Writer(sys.argv[1], 1, 1, np.zeros((1000, 1000)), force=True) as writer:
        writer.add_images(np.zeros((1000, 1, 1, 1), dtype=np.uint8))
except UserError as error:
    print(error)
'''


@needs_limits
def test_a_disk_that_is_full_when_the_labels_are_written(tmp_path):
    """The old file and its labels remain."""
    write(tmp_path / 'a.h5', labels=np.eye(3))
    limit = 1 << 20
    result = subprocess.run([sys.executable, '-c', FULL_DISK_LABELS, str(tmp_path / 'a.h5')], cwd=ROOT,
                            text=True, capture_output=True,
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert (result.returncode, result.stderr) == (0, '')
    message = r"h5_path='.*a.h5': cannot be written \(.*\); choose another folder or free some space\n"
    assert re.fullmatch(message, result.stdout)
    assert sorted(os.listdir(tmp_path)) == ['a-labels.npy', 'a.h5']
    assert open_levels(tmp_path / 'a.h5')[1][4].shape == (3, 1, 4, 4)
    np.testing.assert_array_equal(np.load(tmp_path / 'a-labels.npy'), np.eye(3))


@pytest.mark.parametrize('args, message', [
    (('a.h5', 20, 3), 'resolution=20: must be a power of two'),
    (('a.h5', 16, 4), 'channels=4: must be 1'),
    (('plain/a.h5', 16, 3), r"h5_path='.*plain/a.h5': cannot be written \((File exists|Not a directory)\)"),
])
def test_files_that_cannot_be_written(args, message, tmp_path):
    (tmp_path / 'plain').write_text('a file where a folder should be')
    with pytest.raises(UserError, match=message):
        HDF5Writer(str(tmp_path / args[0]), *args[1:])
    assert os.listdir(tmp_path) == ['plain']


@pytest.mark.parametrize('shape', [(1, 3, 4, 4), (1, 1, 2, 2), (1, 1, 12, 12), (1, 1, 4, 8), (1, 4, 4)])
def test_images_of_another_shape(shape, tmp_path):
    with pytest.raises(ValueError, match=r'need \[N, 1, 4, 4\]'), HDF5Writer(tmp_path / 'a.h5', 4, 1) as writer:
        writer.add_images(np.zeros(shape, np.uint8))


# ----------------------------------------------------------------------------------------------------------------------
# Opening.


def levels(resolution=8, num=2, channels=3, dtype=np.uint8, **changed):
    good = {f'data{r}x{r}': np.zeros((num, channels, r, r), dtype) for r in (8, 4, 2, 1) if r <= resolution}
    return {**good, **changed}


@pytest.mark.parametrize('contents, message', [
    ({}, 'has no dataset like data16x16, only nothing'),
    ({'images': np.zeros(3), 'data8x4': np.zeros(3)}, "only 'data8x4', 'images'"),
    ({'data12x12': np.zeros((1, 3, 12, 12), np.uint8)}, 'data12x12: the resolution must be a power of two'),
    ({name: value for name, value in levels().items() if name != 'data2x2'}, 'data2x2 is missing'),
    (levels(dtype=np.float32), r'data8x8: must hold \[N, C, 8, 8\] uint8, is \(2, 3, 8, 8\) float32'),
    (levels(num=0), r'data8x8: must hold \[N, C, 8, 8\] uint8, is \(0, 3, 8, 8\)'),
    (levels(channels=2), 'data8x8: has 2 channels'),
    (levels(data4x4=np.zeros((1, 3, 4, 4), np.uint8)), r'data4x4: has the shape \(1, 3, 4, 4\), but data8x8 has'),
    (levels(data4x4=np.zeros((2, 4, 4, 3), np.uint8)), r'data4x4: has the shape \(2, 4, 4, 3\)'),
    (levels(data8x8=np.zeros((2, 64), np.uint8)), r'data8x8: must hold'),
])
def test_files_of_another_layout(contents, message, tmp_path):
    with h5py.File(tmp_path / 'a.h5', 'w') as h5:
        for name, value in contents.items():
            h5[name] = value
    with pytest.raises(UserError, match=f'a.h5.: .*{message}.*; make the file with dataset_tool.py') as raised:
        open_levels(tmp_path / 'a.h5')
    assert '\n' not in str(raised.value)


def test_a_group_where_a_dataset_should_be(tmp_path):
    with h5py.File(tmp_path / 'a.h5', 'w') as h5:
        h5.create_group('data8x8')
    with pytest.raises(UserError, match='data8x8: must hold .*, is a group'):
        open_levels(tmp_path / 'a.h5')


def test_files_that_are_not_hdf5(tmp_path):
    write(tmp_path / 'a.h5')
    (tmp_path / 'cut.h5').write_bytes((tmp_path / 'a.h5').read_bytes()[:-100])
    (tmp_path / 'text.h5').write_text('no')
    (tmp_path / 'folder.h5').mkdir()
    for name in ('cut.h5', 'text.h5', 'folder.h5'):
        with pytest.raises(UserError, match=name + '.: is not a complete HDF5 file') as raised:
            open_levels(tmp_path / name)
        assert '\n' not in str(raised.value)
    with pytest.raises(UserError, match='missing.h5.: no such file; .*create_from_images'):
        open_levels(tmp_path / 'missing.h5')


def test_levels_come_finest_first(tmp_path):
    write(tmp_path / 'a.h5')
    h5, opened = open_levels(tmp_path / 'a.h5')
    with h5:
        assert [(res, level.shape) for res, level in opened.items()] == [(r, (3, 1, r, r)) for r in (4, 2, 1)]
        np.testing.assert_array_equal(hdf5_format.read_image(opened[4], 2), np.full((1, 4, 4), 7))


def test_a_locked_file_is_named_as_such(tmp_path):
    path = str(tmp_path / 'set.h5')
    with HDF5Writer(path, 8, 1) as writer:
        writer.add_images(np.zeros((4, 1, 8, 8), np.uint8))
    reading = 'import sys\nfrom data.hdf5_format import open_levels\nopen_levels(sys.argv[1])\n'
    with h5py.File(path, 'a'):
        done = subprocess.run([sys.executable, '-c', reading, path], cwd=ROOT, capture_output=True, text=True)
        assert 'is locked: another program' in done.stderr and 'HDF5_USE_FILE_LOCKING=FALSE' in done.stderr
        assert 'copy it again' not in done.stderr
    assert not is_locked(OSError('Unable to open file (truncated file)'))

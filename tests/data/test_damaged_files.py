"""Foreign data files: false sizes, links to other files, damage. Each attack is tested beside an intact file."""

import bz2
import gzip
import io
import json
import os
import random
import re
import signal
import socket
import struct
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data import celebahq, hdf5_checks, hdf5_writer, labelled_sets, lsun, shards
from data.chunk_reader import open_readers
from data.dataset import Dataset
from data.hdf5_format import find_labels, labels_path, open_levels
from data.hdf5_writer import HDF5Writer
from tests.helpers import run_tool

SIZES = (8, 4, 2, 1)
IMAGES = np.random.RandomState(0).randint(256, size=(5, 3, 8, 8), dtype=np.uint8)
GZIP = {'compression': 'gzip'}


def write(path, chunks=lambda r: (1, 3, r, r), levels=SIZES, **kwargs):
    with h5py.File(path, 'w', libver=kwargs.pop('libver', None)) as h5:
        for r in levels:
            h5.create_dataset(f'data{r}x{r}', data=IMAGES[:, :, :r, :r], chunks=chunks and chunks(r), **kwargs)
    return path


def read_all(path):
    with Dataset(path, shuffle=False, prefetch_images=0, read_threads=1) as data:
        lods = range(data.resolution.bit_length())
        return b''.join(data.next_minibatch(5, lod, shrink_based_on_lod=True)[0].tobytes() for lod in lods)


EXPECTED = b''.join(np.ascontiguousarray(IMAGES[:, :, :r, :r]).tobytes() for r in SIZES)


def check_refused(call, message):
    with pytest.raises(UserError, match=message) as raised:
        call()
    assert '\n' not in str(raised.value)


@pytest.fixture
def in_time():
    """Stop a test that hangs after half a minute."""
    if not hasattr(signal, 'SIGALRM'):
        yield
        return

    def stop(*_args):
        raise TimeoutError('hangs')
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# ----------------------------------------------------------------------------------------------------------------------
# Damaged HDF5 files.


def mutated(content, source):
    content = bytearray(content)
    kind = source.randrange(4)
    if kind == 0:
        return bytes(content[:source.randrange(len(content))])
    if kind == 1:
        size = source.choice([2, 4, 8])
        place = source.randrange(len(content) - size)
        content[place:place + size] = source.choice([b'\xff' * size, bytes(size), source.randbytes(size)])
    for _ in range(source.choice([1, 1, 4])):
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    return bytes(content)


@pytest.mark.parametrize('kwargs', [
    GZIP, {**GZIP, 'libver': 'latest'}, {**GZIP, 'fletcher32': True, 'chunks': lambda r: (2, 1, r, r)},
], ids=['as the release', 'latest', 'chunks across images'])
def test_a_damaged_file_is_refused_or_gives_the_same_pixels(kwargs, tmp_path, in_time):
    path = write(tmp_path / 'a.h5', **kwargs)
    assert read_all(path) == EXPECTED
    content, source, refused = path.read_bytes(), random.Random(1), 0
    for _number in range(60):
        path.write_bytes(mutated(content, source))
        try:
            assert read_all(path) == EXPECTED
        except UserError as error:
            assert '\n' not in str(error)
            refused += 1
    assert refused > 10


def damaged(path, change):
    write(path, **GZIP)
    with h5py.File(path, 'r+') as h5:
        change(h5)
    return path


def replace_chunk(content):
    return lambda h5: h5['data8x8'].id.write_direct_chunk((1, 0, 0, 0), content)


def without_chunks(h5):
    del h5['data8x8']
    h5.create_dataset('data8x8', (5, 3, 8, 8), np.uint8, chunks=(1, 3, 8, 8), **GZIP)[0] = 1


@pytest.mark.parametrize('change, message', [
    (without_chunks, 'at 8x8 some images were never written, such as image 1'),
    (replace_chunk(zlib.compress(bytes(100))), r'image 1 at 8x8 cannot be read \(100 bytes, expected 192\)'),
    (replace_chunk(zlib.compress(bytes(1 << 17))), 'image 1 at 8x8 cannot be read .decompresses to more than 196'),
    (replace_chunk(zlib.compress(IMAGES[1].tobytes())[:-3]), r'image 1 at 8x8 cannot be read \(.*\)'),
    (replace_chunk(zlib.compress(bytes(1 << 22))), 'is damaged .at 8x8 1 chunks of 192 bytes have a wrong size'),
], ids=['never written', 'short', 'long', 'cut off', 'a bomb'])
def test_chunks_that_are_not_whole_images(change, message, tmp_path, capsys):
    path = damaged(tmp_path / 'a.h5', change)
    check_refused(lambda: read_all(path), message)
    status, _out, err = run_tool(capsys, 'merge', tmp_path / 'b.h5', path, path)
    assert status == 1 and re.search(message, err) and err.count('\n') == 1
    assert run_tool(capsys, 'inspect', path, '--verify')[0] == 1
    assert os.listdir(tmp_path) == ['a.h5']


def test_chunks_that_overlap_or_leave_the_file(tmp_path):
    path = write(tmp_path / 'a.h5', **GZIP)
    h5, levels = open_levels(path)
    with h5:
        level, table = levels[8], hdf5_checks.find_chunks(levels[8])
        hdf5_checks.check_places([level], [table])
        for number, column, value in ((2, 0, table[1, 0]), (2, 0, path.stat().st_size - 3), (2, 0, -1), (2, 1, 0)):
            changed = table.copy()
            changed[number, column] = value
            check_refused(lambda table=changed: hdf5_checks.check_places([level], [table]),
                          'is damaged|were never written')


def test_a_finest_level_whose_name_is_damaged(tmp_path):
    path = write(tmp_path / 'a.h5', **GZIP)
    path.write_bytes(path.read_bytes().replace(b'data8x8\0', b'data8x0\0'))
    check_refused(lambda: open_levels(path), "'data8x0': has the shape of data8x8, which is missing")


# ----------------------------------------------------------------------------------------------------------------------
# HDF5 files with false sizes or links to other files.


def of_size(num, resolution):
    def make(path):
        with h5py.File(path, 'w') as h5:
            for r in [resolution >> lod for lod in range(resolution.bit_length())]:
                side = min(r, 64)
                h5.create_dataset(f'data{r}x{r}', (num, 3, r, r), np.uint8, chunks=(1, 1, side, side), **GZIP)
    return make


def with_links(link):
    def make(path):
        write(path.with_name('other.h5'), **GZIP)
        with h5py.File(path, 'w') as h5:
            h5['elsewhere'] = h5py.ExternalLink('other.h5', '/')
            for r in SIZES:
                h5[f'data{r}x{r}'] = link(f'data{r}x{r}')
    return make


def external_storage(path):
    path.with_name('secret').write_bytes(bytes(1000))
    with h5py.File(path, 'w') as h5:
        for r in SIZES:
            h5.create_dataset(f'data{r}x{r}', (1, 3, r, r), np.uint8,
                              external=[(str(path.with_name('secret')), 0, 3 * r * r)])


def virtual(source):
    def make(path):
        write(path.with_name('other.h5'), **GZIP)
        with h5py.File(path, 'w') as h5:
            for r in SIZES:
                layout = h5py.VirtualLayout((5, 3, r, r), np.uint8)
                layout[:] = h5py.VirtualSource(source(path), f'data{r}x{r}', (5, 3, r, r))
                h5.create_virtual_dataset(f'data{r}x{r}', layout)
    return make


def long_name(path):
    with h5py.File(path, 'w') as h5:
        h5['data' + '1' * 5000 + 'x' + '1' * 5000] = np.zeros(3)


def attributes(**values):
    def make(path):
        write(path, **GZIP)
        with h5py.File(path, 'r+') as h5:
            h5.attrs.update(values)
    return make


@pytest.mark.parametrize('make, message', [
    (of_size(1 << 40, 8), r'data8x8: claims 1099511627776 images; at most \d+ are read'),
    (of_size(1 << 25, 8), r'data8x8: claims 33554432 images of 192 bytes, but a file of \d+ bytes can hold at most'),
    (of_size(1, 1 << 17), r'data131072x131072: an image would take 51539607552 bytes; at most \d+ are read'),
    (external_storage, 'data8x8: its data are in another file, .*secret; only data within the file'),
    (with_links(lambda name: h5py.ExternalLink('other.h5', name)), 'data1x1: is a link to another file, other.h5'),
    (with_links(lambda name: h5py.SoftLink(f'/elsewhere/{name}')), 'data1x1: is a link to elsewhere/data1x1; only'),
    (with_links(h5py.SoftLink), 'data1x1: is a circle of links'),
    (virtual(lambda path: path.name), 'a.h5 contains the dataset itself; join the parts again'),
    (virtual(lambda path: str(path.with_name('other.h5'))), 'is a virtual dataset that'),
    (long_name, r"has no dataset like data16x16, only 'data111\S{,100}'"),
    (attributes(class_names=10 ** 12, label_size='many'), 'a.h5: its attribute label_size has 16 bytes, or a type'),
], ids=['images', 'images for the file', 'resolution', 'external storage', 'external links', 'links through one',
        'links to themselves', 'virtual, of itself', 'virtual, elsewhere', 'digits', 'attributes'])
def test_claims_and_ways_out_of_the_file(make, message, tmp_path, in_time, capsys):
    path = tmp_path / 'a.h5'
    make(path)
    check_refused(lambda: Dataset(path), message)
    status, _out, err = run_tool(capsys, 'inspect', path)
    assert status == 1 and err.count('\n') == 1


def test_intact_files_of_other_programs(tmp_path):
    """Harmless files: links within the file, a virtual dataset of other files, attributes of users."""
    with_links(lambda name: h5py.SoftLink(f'/own{name}'))(tmp_path / 'a.h5')
    with h5py.File(tmp_path / 'a.h5', 'r+') as h5:
        for r in SIZES:
            h5[f'owndata{r}x{r}'] = IMAGES[:, :, :r, :r]
        h5.attrs['note'] = 'by another program'
    assert read_all(tmp_path / 'a.h5') == EXPECTED
    virtual(lambda path: 'other.h5')(tmp_path / 'b.h5')
    assert read_all(tmp_path / 'b.h5') == EXPECTED
    for kwargs in ({'compression': 'lzf'}, {'chunks': None}, {**GZIP, 'shuffle': True, 'fletcher32': True}):
        assert read_all(write(tmp_path / 'c.h5', **kwargs)) == EXPECTED


def test_a_virtual_file_that_crashes_hdf5(tmp_path, monkeypatch):
    """The test uses a reader that always crashes, because real files that crash HDF5 depend on its version."""
    shards.merge(tmp_path / 'a.h5', [write(tmp_path / 'b.h5', **GZIP)], virtual=True)
    assert read_all(tmp_path / 'a.h5') == EXPECTED
    os.utime(tmp_path / 'a.h5', ns=(1, 1))
    monkeypatch.setattr('data.hdf5_format.try_hdf5', crash)
    check_refused(lambda: open_levels(tmp_path / 'a.h5'), 'a.h5: is damaged: the process that reads it ended by SIG')
    assert open_levels(tmp_path / 'b.h5')[1].keys() == set(SIZES)       # It has no list of parts, nor another process.


def crash(_path, *_args):
    os.kill(os.getpid(), signal.SIGABRT)
    yield ()


# ----------------------------------------------------------------------------------------------------------------------
# Other formats.


def idx(shape, pixels):
    return struct.pack(f'>4B{len(shape)}I', 0, 0, 8, len(shape), *shape) + pixels


@pytest.mark.parametrize('content, message', [
    (gzip.compress(idx((2, 28, 28), bytes(1 << 26))), 'has more bytes, but its header claims 1584'),
    (gzip.compress(idx((1 << 31, 28, 28), bytes(100))),
     r'claims 2147483648x28x28 = 1683627180032 bytes; a file of this size may hold at most \d+'),
    (idx((1 << 20, 28, 28), bytes(100)),
     r'claims 1048576x28x28 = 822083584 bytes; a file of this size may hold at most 116'),
    (gzip.compress(idx((2, 28, 28), bytes(1568)))[:-4], 'is damaged or cut off'),
], ids=['bomb', 'claim in gzip', 'claim', 'cut off'])      # Gzip files contain the time, which must not be in test ids.
def test_idx_files(content, message, tmp_path):
    (tmp_path / 'a').write_bytes(content)
    check_refused(lambda: labelled_sets.read_idx(tmp_path / 'a', 3), message)
    (tmp_path / 'a').write_bytes(gzip.compress(idx((2, 28, 28), bytes(1568))))
    assert labelled_sets.read_idx(tmp_path / 'a', 3).shape == (2, 28, 28)


def png():
    file = io.BytesIO()
    Image.new('RGB', (8, 8)).save(file, 'png')
    return file.getvalue()


def pack(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, content in members.items():
            with archive.open(name.replace('_', '.'), 'w') as member:
                for block in content if isinstance(content, list) else [content]:
                    member.write(block)
    return path


def encrypted(path, name='a_png'):
    """A zip archive with the flag for encryption in both headers of its member."""
    content = bytearray(pack(path, **{name: png()}).read_bytes())
    content[6] |= 1
    content[content.index(b'PK\1\2') + 8] |= 1
    path.write_bytes(content)


def spoilt_lzma(path, name='a_png'):
    content = bytearray(pack(path, zipfile.ZIP_LZMA, **{name: png()}).read_bytes())
    content[60] ^= 255
    path.write_bytes(content)


ZEROS = [bytes(1 << 20)] * 80


@pytest.mark.parametrize('make, message', [
    (lambda path: pack(path, a_png=ZEROS),
     r'a.png \(cannot be read: too large: claims 83886080 bytes, compressed to \d+;'),
    (lambda path: pack(path, a_png=png(), dataset_json=ZEROS), 'cannot be read .too large: claims 83886080 bytes'),
    (lambda path: pack(path, a_png=png(), dataset_json=b'[' * 10 ** 5), 'dataset.json: is not a JSON file'),
    (lambda path: pack(path, a_png=png(), dataset_json=json.dumps({'labels': [['a.png', 10 ** 9]]}).encode()),
     'dataset.json: has the class 1000000000 for one of 1 images; the limits are'),
    (lambda path: path.write_bytes(pack(path, a_png=png()).read_bytes().replace(b'a.png', b'\0.png')),
     'this .zip file cannot be read'),
    (encrypted, r'a.png \(cannot be read: .*is encrypted'), (spoilt_lzma, r'a.png \(broken: '),
], ids=['picture', 'labels', 'nested', 'class', 'no name', 'encrypted', 'lzma'])
def test_zip_files(make, message, tmp_path, capsys):
    make(tmp_path / 'a.zip')
    status, _out, err = run_tool(capsys, 'create_from_images', tmp_path / 'a.zip', tmp_path / 'a.h5')
    assert status == 1 and re.search(message, err) and err.count('\n') == 1
    pack(tmp_path / 'a.zip', zipfile.ZIP_LZMA, a_png=png(), dataset_json=b'{"labels": [["a.png", 0]]}')
    assert run_tool(capsys, 'create_from_images', tmp_path / 'a.zip', tmp_path / 'a.h5')[0] == 0


@pytest.mark.parametrize('make, reason', [
    (lambda path, name: pack(path, **{name: ZEROS}), r'\(too large: claims 83886080 bytes'),
    (encrypted, r'\(.*is encrypted'), (spoilt_lzma, r'\('),
], ids=['bomb', 'encrypted', 'lzma'])
def test_archives_of_differences_of_celebahq(make, reason, tmp_path):
    make(tmp_path / 'deltas00000.zip', 'delta00000_dat')
    with pytest.raises(celebahq.BadImage, match=f'deltas00000.zip: delta00000.dat cannot be read {reason}'):
        celebahq.read_token(tmp_path, 0)
    pack(tmp_path / 'deltas00000.zip', delta00000_dat=b'token')
    assert celebahq.read_token(tmp_path, 0) == b'token'


def test_differences_of_celebahq_of_another_size(monkeypatch):
    monkeypatch.setattr('cryptography.fernet.Fernet.decrypt', lambda _self, token: bz2.compress(bytes(int(token))))
    assert celebahq.decrypt_delta(b'3145728', b'', 'a.jpg').shape == (3, 1024, 1024)
    for size in (b'3145727', b'67108864'):
        with pytest.raises(celebahq.BadImage, match='the delta of a.jpg does not have'):
            celebahq.decrypt_delta(size, b'', 'a.jpg')


@pytest.mark.parametrize('landmarks', [
    [[1e30, 0], [0, 1e30], [0, 0], [0, 0], [1, 1]], [[0, 0], [1e-7, 0], [0, 0], [0, 1e-7], [1e-7, 1e-7]],
    [[np.nan, 0], [1, 0], [0, 0], [0, 1], [1, 1]], [[0, 0], [9e5, 0], [0, 0], [0, 9e5], [9e5, 9e5]]])
def test_landmarks_of_no_face(landmarks):
    with pytest.raises(celebahq.BadImage, match='landmarks'):
        celebahq.plan_alignment(np.array(landmarks, np.float32), (500, 400))


def test_a_database_with_records_out_of_order(tmp_path):
    lmdb = pytest.importorskip('lmdb')
    with lmdb.open(str(tmp_path / 'a'), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        for number in range(9):
            transaction.put(b'key-%d' % number, b'value')
    assert len(list(lsun.read_records(tmp_path / 'a', 2, 9))) == 7
    check_refused(lambda: list(lsun.read_records(tmp_path / 'a', 0, 10)), 'data.mdb: is damaged: it has 9 records but')
    content = (tmp_path / 'a' / 'data.mdb').read_bytes()
    (tmp_path / 'a' / 'data.mdb').write_bytes(content.replace(b'key-4', b'key-1'))
    check_refused(lambda: list(lsun.read_records(tmp_path / 'a', 0, 9)), 'is damaged: record 4 is out of order')


# ----------------------------------------------------------------------------------------------------------------------
# Pipes, names, programs.

needs_pipes = pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='Windows has no such files')


@needs_pipes
@pytest.mark.parametrize('name, argv', [
    ('a.h5', ['inspect', 'a.h5']), ('a.h5', ['merge', 'b.h5', 'a.h5']),
    ('a.zip', ['create_from_images', 'a.zip', 'b.h5']),
    ('a-r02.tfrecords', ['create_from_tfrecords', '.', 'b.h5']), ('data.mdb', ['create_lsun', '.', 'b.h5']),
    ('a-labels.npy', ['inspect', 'whole.h5']), ('train_32x32.mat', ['create_svhn', '.', 'b.h5']),
    ('1.png', ['create_celeba', '.', 'b.h5', '--expected-images', '0']),
    ('image_list.txt', ['create_celebahq', 'b.h5', '.', '.']), ('dataset.json', ['create_from_images', '.', 'b.h5']),
])
def test_pipes_are_not_read(name, argv, tmp_path, monkeypatch, capsys, in_time):
    monkeypatch.chdir(tmp_path)
    if name.endswith('.npy'):
        with HDF5Writer('whole.h5', 8, 3, np.eye(5)) as writer:
            writer.add_images(IMAGES)
        os.remove('whole-labels.npy')
    os.mkfifo(name)
    status, _out, err = run_tool(capsys, *argv)
    assert status == 1 and err.count('\n') == 1


@needs_pipes
def test_sockets_devices_and_names_with_line_breaks(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)     # Names of sockets are limited to 108 bytes.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind('a.h5')
        for path, message in (('a.h5', 'a.h5: is a socket, which cannot'), ('/dev/zero', 'is a device, which cannot'),
                              ('two\nlines.h5', 'two\\nlines.h5')):
            status, _out, err = run_tool(capsys, 'inspect', path)
            assert status == 1 and message in err and err.count('\n') == 1



# ----------------------------------------------------------------------------------------------------------------------
# --force.


def replace(path, labels, value):
    with HDF5Writer(path, 4, 1, labels, force=True) as writer:
        writer.add_images(np.full((4, 1, 4, 4), value, np.uint8))


def pair(path):
    """(value of the pixels, column of the labels or None) of a dataset."""
    with Dataset(path, shuffle=False) as data:
        images, labels = data.next_minibatch(1)
    return int(images.max()), int(labels[0].argmax()) if labels.shape[1] else None


def labels_of(column):
    return None if column is None else np.eye(3)[[column] * 4]


@pytest.mark.parametrize('old', [0, None])
@pytest.mark.parametrize('new', [1, None])
def test_a_writer_that_is_ended_at_any_step_leaves_the_old_or_the_new_data_set(old, new, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def fails_at(step):
        calls = []

        def counted(function):
            def call(*args, **kwargs):
                calls.append(function)
                if len(calls) > step:       # Nothing is done from here on, as after a kill.
                    raise Killed
                return function(*args, **kwargs)
            return call
        return counted

    found, path = [], tmp_path / 'a.h5'
    for step in range(8):
        for name in os.listdir(tmp_path):
            os.remove(tmp_path / name)
        replace(path, labels_of(old), 7)
        with monkeypatch.context() as patch:
            counted = fails_at(step)
            for name in ('replace', 'remove'):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                replace(path, labels_of(new), 8)
                is_done = True
            except Killed:
                is_done = False
        found.append(pair(path))
        if is_done:
            break
        replace(path, labels_of(2), 9)      # The next writer cleans up.
        assert pair(path) == (9, 2) and labels_path(path) == find_labels(open_levels(path)[0], path)
    assert is_done and set(found) == {(7, old), (8, new)} and len(found) > 1


def test_labels_that_were_changed_by_hand_are_still_used(tmp_path):
    replace(tmp_path / 'a.h5', labels_of(0), 7)
    np.save(labels_path(tmp_path / 'a.h5'), labels_of(1))
    assert pair(tmp_path / 'a.h5') == (7, 1)


def test_a_full_disk_keeps_the_old_labels(tmp_path, monkeypatch):
    replace(tmp_path / 'a.h5', labels_of(0), 7)

    def full(*_args):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(hdf5_writer, 'write_array', full)
    check_refused(lambda: replace(tmp_path / 'a.h5', labels_of(1), 8), 'No space left')
    monkeypatch.undo()
    assert pair(tmp_path / 'a.h5') == (7, 0) and sorted(os.listdir(tmp_path)) == ['a-labels.npy', 'a.h5']


def test_all_readers_of_a_level_check_it(tmp_path):
    """A reader detects damage of its own level, and ignores damage of other levels."""
    path = damaged(tmp_path / 'a.h5', without_chunks)
    h5, levels = open_levels(path)
    with h5, open_readers(h5, [levels[4], levels[4]]) as [reader, _again]:
        np.testing.assert_array_equal(reader.read(2), IMAGES[2, :, :4, :4])
    check_refused(lambda: Dataset(path), 'some images were never written, such as image 1')
    with Dataset(path, resolution=4, shuffle=False) as data:
        np.testing.assert_array_equal(data.next_minibatch(5)[0], IMAGES[:, :, :4, :4])

"""common/arrays.py: all forms of NumPy's files are read; damaged and hostile files are one-line errors."""

import io
import json
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from common import arrays
from common.arrays import read_array, read_arrays, save_array, save_arrays
from common.errors import UserError
from data import hdf5_format, tfrecords
from runs import states

NUMBERS = np.arange(12, dtype=np.float32).reshape(3, 4)
BYTES = NUMBERS.tobytes()
MEGABYTE = 2 ** 20


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), **options)
    return file.getvalue()


def with_header(text, data=b''):
    """A ``.npy`` file with an arbitrary header."""
    text = text.encode() + b'\n'
    return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text + data


def described(shape='(3, 4)', dtype="'<f4'", order='False', data=BYTES):
    return with_header(f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}", data)


def npz(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as archive, warnings.catch_warnings():
        warnings.simplefilter('ignore')     # zipfile warns of two members with one name.
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def refused(read, path, content, limit=8 * MEGABYTE):
    """The one-line error for a file; checks that reading it takes little memory."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as raised:
            read(str(path))
        assert tracemalloc.get_traced_memory()[1] < limit + 4 * len(content)
    finally:
        tracemalloc.stop()
    message = str(raised.value)
    assert '\n' not in message and str(path) in message and len(message) < 600 + len(str(path))
    return message


# ----------------------------------------------------------------------------------------------------------------------
# Files that are read.


@pytest.mark.parametrize('array', [
    NUMBERS, np.asfortranarray(NUMBERS), NUMBERS.astype('>f8'), np.float32(2.5), np.zeros((0, 3)), np.zeros((3, 0)),
    np.array([True, False]), np.array('a text'), np.array([1 + 2j]), np.arange(5, dtype='>u2'), np.ones((1, 2, 3, 4)),
    np.array(['2000-01-01'], 'M8[D]'), np.zeros(2, 'i4,f8'), np.arange(300000)], ids=lambda array: f'{array.dtype}')
def test_arrays_come_back(array, tmp_path):
    save_array(tmp_path / 'a.npy', array)
    save_arrays(tmp_path / 'a.npz', {'x/y': array, 'z': NUMBERS})
    np.savez_compressed(tmp_path / 'b.npz', **{'x/y': array, 'z': NUMBERS})
    for found in (read_array(tmp_path / 'a.npy', ''), read_arrays(tmp_path / 'a.npz', '')['x/y'],
                  read_arrays(tmp_path / 'b.npz', '')['x/y']):
        np.testing.assert_array_equal(found, array)
        assert found.shape == array.shape and found.dtype == array.dtype.newbyteorder('=') and found.flags.writeable
    # NumPy reads them, too.
    for found in (np.load(tmp_path / 'a.npy'), np.load(tmp_path / 'a.npz')['x/y']):
        np.testing.assert_array_equal(found, array)


def test_headers_of_other_writers(tmp_path):
    path = tmp_path / 'a.npy'
    for content in (described('(3L, 4L)'), described('(3,4)'), npy(NUMBERS, version=(2, 0)),
                    with_header("{'shape': (3, 4), 'fortran_order': False, 'descr': '<f4'}", BYTES)):
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            np.testing.assert_array_equal(read_array(path, ''), NUMBERS)


def test_objects_are_not_written(tmp_path):
    for save, content in ((save_array, [object()]), (save_arrays, {'x': [object()]})):
        with pytest.raises(ValueError, match='allow_pickle=False'):
            save(tmp_path / 'a', content)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------------------
# Files that are refused.


HOSTILE_ARRAYS = {
    'giant': described('(1000000000000,)'), 'giant product': described('(1000000, 1000000)'),
    'giant number': described(f'({"9" * 400},)'), 'negative': described('(-1,)'), 'two negative': described('(-3, -4)'),
    'zeros and giants': described(f'(0, {2 ** 62}, {2 ** 62})', data=b''), 'many axes': described('(1,) * 70'),
    'axes': described(f'({"1, " * 70})', data=BYTES[:4]), 'no tuple': described('12'),
    'text as shape': described("('a',)"), 'cut off': npy(NUMBERS)[:-1], 'too long': npy(NUMBERS) + b'x',
    'objects': npy(np.array([{}, None]), allow_pickle=True), 'objects in records': described(dtype="[('a', '|O')]"),
    'empty texts': described('(1000000000,)', "'<U0'", data=b''), 'unknown type': described(dtype="'<q99'"),
    'a call as type': described(dtype="__import__('os')"), 'brackets': with_header('(' * 300),
    'minuses': with_header('-' * 9000 + '1'), 'long header': with_header(' ' * 60000), 'no header': b'\x93NUMPY\1\0',
    'of version 9': b'\x93NUMPY\x09\x00' + npy(NUMBERS)[8:], 'empty': b'', 'text': b'text', 'an archive': npz([]),
    'nothing': with_header('{}'), 'null bytes': with_header('\0' * 100), 'pickle': b'\x80\x04N.',
}


@pytest.mark.parametrize('what', HOSTILE_ARRAYS)
def test_hostile_arrays(what, tmp_path):
    message = refused(lambda path: read_array(path, 'make it again'), tmp_path / 'a.npy', HOSTILE_ARRAYS[what])
    assert 'cannot be read as a NumPy array' in message and message.endswith('; make it again')


def patched(offset, value, signature=b'PK\1\2'):
    """A good archive with a byte changed in its table of contents or in the header of its member."""
    content = bytearray(npz([('x.npy', npy(NUMBERS))]))
    content[content.index(signature) + offset] = value
    return bytes(content)


def hostile_archives():
    good, zeros = ('x.npy', npy(NUMBERS)), npy(np.zeros(3 * 10 ** 7, np.uint8))
    return {
        'compressed zeros': npz([('x.npy', zeros)], zipfile.ZIP_DEFLATED), 'bzip2': npz([good], zipfile.ZIP_BZIP2),
        'LZMA': npz([good], zipfile.ZIP_LZMA), 'twice': npz([good, good]), 'not an array': npz([good, ('y', b'text')]),
        'objects': npz([('x.npy', HOSTILE_ARRAYS['objects'])]), 'giant': npz([('x.npy', HOSTILE_ARRAYS['giant'])]),
        'encrypted': patched(8, 1), 'another method': patched(10, 99), 'wrong checksum': patched(16, 1),
        'claims more': patched(25, 1), 'another name inside': patched(31, 65, b'PK\3\4'), 'cut off': npz([good])[:-9],
        'wrong bytes': npz([good]).replace(BYTES, bytes(48)), 'a name that is no text': patched(46, 255),
        'many members': npz([(f'{index}.npy', b'') for index in range(25000)]), 'an array': npy(NUMBERS), 'empty': b'',
        'one place for two': npz([good, ('y.npy', good[1])]).replace(b'y.npy', b'x.npy')}


HOSTILE_ARCHIVES = hostile_archives()


@pytest.mark.parametrize('what', HOSTILE_ARCHIVES)
def test_hostile_archives(what, tmp_path):
    message = refused(lambda path: read_arrays(path, 'make it again'), tmp_path / 'a.npz', HOSTILE_ARCHIVES[what])
    assert 'cannot be read as an archive of NumPy arrays' in message and message.endswith('; make it again')


def test_paths_that_are_no_files(tmp_path):
    for path in (tmp_path, tmp_path / 'none', '/dev/zero'):
        with pytest.raises(arrays.DamagedArrays, match='there is no such file; copy it'):
            read_array(path, 'copy it')


# ----------------------------------------------------------------------------------------------------------------------
# All readers, with randomly damaged files.


def mutated(data, random):
    """`data`, truncated or with up to three bytes changed, inserted or removed, mostly near its ends."""
    if random.randint(6) == 0:
        return data[:random.randint(len(data))]
    data = bytearray(data)
    for _change in range(random.randint(1, 4)):
        place = random.randint(len(data))
        if random.randint(4):
            place = (random.randint(min(len(data), 300)) * random.choice([-1, 1])) % len(data)
        new = bytes([random.randint(256)])
        data[place:place + random.randint(2)] = new if random.randint(3) else b''
    return bytes(data)


LABELS = np.eye(4, dtype=np.float32)[np.arange(9) % 4]


def one_state(path):
    states.write(path, states.State({'x': NUMBERS}, {'cur_nimg': 3}))


READERS = {
    'labels': (lambda path: save_array(path, LABELS), lambda path: hdf5_format.load_labels(path, 9)),
    'labels of TFRecords': (lambda path: save_array(path, LABELS), lambda path: tfrecords.read_labels([path], 9)),
    'archives': (lambda path: save_arrays(path, {'meta': json.dumps({}), 'x': NUMBERS}), lambda path: read_arrays(
        path, '')),
    'training states': (one_state, states.read),
}


@pytest.mark.parametrize('kind', READERS)
def test_files_damaged_at_random(kind, tmp_path):
    """Randomly damaged files give a clear error or arrays."""
    save, read = READERS[kind]
    path = tmp_path / 'file'
    save(path)
    read(str(path))
    content, num_refused = path.read_bytes(), 0
    for seed in range(150):
        path.write_bytes(mutated(content, np.random.RandomState(seed)))
        try:
            read(str(path))
        except UserError as error:
            num_refused += 1
            assert '\n' not in str(error) and str(path) in str(error)
    assert num_refused > 75


@pytest.mark.parametrize('document', [b'[]', b'{}', b'nonsense', b'\xff', b'[' * 10 ** 5, b'7'])
def test_documents_of_training_states(document, tmp_path, monkeypatch):
    """Damaged documents of training states, with the right checksum."""
    monkeypatch.setattr(states.json, 'dumps', lambda _document: document.decode('latin1'))
    states.write(tmp_path / 'state.npz', states.State({}, {}))
    with pytest.raises(states.DamagedState, match='state.npz is damaged: '):
        states.read(tmp_path / 'state.npz')

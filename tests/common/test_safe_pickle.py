"""Hostile, damaged and foreign pickles give a clear error or plain data; no code in them runs."""

import copyreg
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import legacy  # noqa: F401  (load_pkl imports it, which must not be taken for something that a file did)
from common import safe_pickle
from common.errors import UserError
from common.files import save_pkl
from nets.pickles import load_pkl
from tests.helpers import GOLDEN, dumps, small_state_2017, small_state_2018, write

# Strings in damaged files may have invalid escape sequences.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

# Audit events for running or looking up code. They are recorded while a file is read.
WATCHED = {'os.system', 'os.exec', 'os.posix_spawn', 'subprocess.Popen', 'exec', 'compile', 'import', 'marshal.loads',
           'code.__new__', 'function.__new__', 'pickle.find_class', 'socket.connect', 'os.remove', 'shutil.rmtree',
           'ctypes.dlopen'}
MEGABYTE = 2 ** 20
b'\\u0041'.decode('raw_unicode_escape')       # Import the codec before files are watched.
watching, seen = [], []


def watch(event, args):
    if watching and event in WATCHED:
        seen.append((event, args))


sys.addaudithook(watch)


def read(path):
    """Load networks from a file and check events and memory; return the object or the message of the UserError."""
    size = os.path.getsize(path)
    seen.clear()
    watching.append(True)
    tracemalloc.start()
    try:
        return load_pkl(path)
    except UserError as error:
        assert '\n' not in str(error) and path in str(error) and len(str(error)) < 400 + len(path)
        return str(error)
    finally:
        watching.clear()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # Source texts are parsed, which Python reports as compilation of an unnamed file.
        assert all(event == 'compile' and args[1] == '<unknown>' for event, args in seen), seen
        # Small files may need some memory for messages and tables, large files a few copies of their contents.
        assert peak < 32 * MEGABYTE + 8 * size, f'{peak} bytes for a file of {size}'


# ----------------------------------------------------------------------------------------------------------------------
# Hostile pickles.


class Call:
    """An object whose pickle calls `func`."""

    def __init__(self, func, *args, state=None, items=None):
        self.result = (func, args, state, items)

    def __reduce__(self):
        return self.result


def call(name, *args):
    """A pickle of protocol 2 that calls the function ``'module name'``."""
    return b'\x80\x02c' + name.replace(' ', '\n').encode() + b'\n' + pickle.dumps(args, 2)[2:-1] + b'R.'


def global_name(name):
    return b'c' + name.replace(' ', '\n').encode() + b'\n'


def text(value):
    return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def array(shape=(2,), dtype='f4', data=b'\0' * 8, dtype_state=None):
    """A pickle of an array in protocol 2, with replaceable pieces."""
    made = global_name('numpy dtype') + pickle.dumps((dtype, 0, 1), 2)[2:-1] + b'R'
    made += pickle.dumps(dtype_state or (3, '<', None, None, None, -1, -1, 0), 2)[2:-1] + b'b'
    shape_and_data = [pickle.dumps(part, 3)[2:-1] for part in (shape, data)]
    return (b'\x80\x03' + global_name('numpy.core.multiarray _reconstruct') + global_name('numpy ndarray')
            + b'K\0\x85C\x01b\x87R(K\x01' + shape_and_data[0] + made + b'\x89' + shape_and_data[1] + b'tb.')


def network(state, name='tfutil Network'):
    return b'\x80\x02' + global_name(name) + b')\x81' + state + b'b.'


def hostile():
    """{description: pickle} of pickles that must be refused."""
    touch = 'touch /tmp/hostile-pickle-ran'
    return {
        'os.system': pickle.dumps(Call(os.system, touch)),
        'posix.system by text': b'cposix\nsystem\n' + text(touch) + b'\x85R.',
        'nt.system': call('nt system', touch),
        'builtins.eval': pickle.dumps(Call(eval, f'__import__("os").system("{touch}")')),
        'builtins.exec': pickle.dumps(Call(exec, 'import os'), 4),
        'eval of Python 2': call('__builtin__ eval', '1'),
        'file of Python 2': call('__builtin__ file', '/tmp/hostile-pickle-ran', 'w'),
        'apply of Python 2': call('__builtin__ apply', 'x'),
        'builtins.getattr': pickle.dumps(Call(getattr, 1, 'real')),
        'nested reduce': pickle.dumps(Call(getattr, Call(__import__, 'os'), 'system')),
        'a call of the result of a call': b'cbuiltins\ngetattr\n(cbuiltins\n__import__\n' + text('os') + b'\x85R'
        + text('system') + b'tR' + text(touch) + b'\x85R.',
        'subprocess.Popen': pickle.dumps(Call(subprocess.Popen, ['touch', '/tmp/hostile-pickle-ran'])),
        'builtins.open': pickle.dumps(Call(open, '/tmp/hostile-pickle-ran', 'w')),
        'code object': call('types CodeType', 0, 0, 0, 0, 0, 0, b'', (), (), (), '', '', 0, b''),
        'function object': call('types FunctionType', 1, {}),
        'marshal.loads': call('marshal loads', b'\x80'),
        'pickle.loads': call('pickle loads', b'.'),
        'importlib': call('importlib import_module', 'antigravity'),
        'runpy': call('runpy run_path', '/tmp/x.py'),
        'ctypes': call('ctypes CDLL', 'libc.so.6'),
        'shutil.rmtree': call('shutil rmtree', '/tmp/nothing-here'),
        'webbrowser': call('webbrowser open', 'file:///'),
        'operator.attrgetter': call('operator attrgetter', 'system'),
        'functools.partial': call('functools partial', 'x'),
        'numpy.load': call('numpy load', '/tmp/x.npy'),
        'numpy.fromfile': call('numpy fromfile', '/etc/hostname'),
        'numpy.memmap': call('numpy memmap', '/tmp/hostile-pickle-ran', 'u1', 'w+'),
        'numpy.testing runs strings': call('numpy.testing._private.utils runstring', 'import os', {}),
        'numpy.f2py': call('numpy.f2py.crackfortran myeval', '1'),
        'theano': call('theano.compile.function function', 'x'),
        'our own functions': call('misc save_pkl', 1, '/tmp/hostile-pickle-ran'),
        'our own module': call('legacy load_pkl', 'x'),
        'dotted name': b'\x80\x04' + b'\x8c\x06tfutil\x8c\x0fNetwork.__init__\x93.',
        'dotted way to os': b'\x80\x04\x8c\x05numpy\x8c\x11dtype.os.system.x\x93.',
        'a name in the wrong types': b'\x80\x04K\x01K\x02\x93.',
        'persistent id': b'Psomething\n.', 'binary persistent id': text('x') + b'Q.',
        'extension 1': b'\x80\x02\x82\x01.', 'extension 2': b'\x80\x02\x83\x01\x01.',
        'extension 4': b'\x80\x02\x84\x01\0\0\0.',
        'INST': b'(' + text(touch) + b'ios\nsystem\n.', 'OBJ': b'(cos\nsystem\n' + text(touch) + b'o.',
        'INST of a network': b'(itfutil\nNetwork\n.', 'OBJ of a network': b'(ctfutil\nNetwork\no.',
        'NEWOBJ': b'\x80\x02csubprocess\nPopen\n' + text('true') + b'\x85\x81.',
        'NEWOBJ of a function': b'\x80\x02cnumpy\ndtype\n' + text('f4') + b'\x85\x81.',
        'NEWOBJ with arguments': b'\x80\x02ctfutil\nNetwork\n' + text('x') + b'\x85\x81}b.',
        'NEWOBJ_EX': b'\x80\x04ctfutil\nNetwork\n)}\x92.',
        'out-of-band buffer': b'\x80\x05\x97.', 'read-only buffer': b'\x80\x05C\x01x\x98.',
        'set': b'\x80\x04\x8f.', 'frozenset': b'\x80\x04(\x91.',
        'copyreg of another class': pickle.dumps(subprocess.CompletedProcess([], 0), 0),
        'copyreg.__newobj__': call('copyreg __newobj__', 1), 'copyreg.add_extension': call('copyreg add_extension', 1),
        'copyreg with a base': b'ccopyreg\n_reconstructor\n(ctfutil\nNetwork\ncbuiltins\ndict\n}tR.',
        'copyreg with a state': b'ccopyreg\n_reconstructor\n(ctfutil\nNetwork\ncbuiltins\nobject\n}tR.',
        'a call of a network': b'\x80\x02ctfutil\nNetwork\n)R.',
        'state for a function': b'\x80\x02cnumpy\ndtype\n}' + text('fields') + b'}sb.',
        'state for a class': b'\x80\x02ctfutil\nNetwork\n}' + text('__init__') + b'NsbN\x81.',
        'state for a list': b']}b.', 'slot state': network(b'N}' + text('__class__') + b'Ns\x86'),
        'second state': network(b'}b}'), 'state that is no dict': network(b'K\x07'),
        'state is the object': b'\x80\x02ctfutil\nNetwork\n)\x812b.',
        'object array': pickle.dumps(np.array([{}, None], object)),
        'object array with text': array((1,), 'O8', b'\0' * 8), 'object scalar': call(
            'numpy.core.multiarray scalar', np.dtype('O'), b'x'),
        'record array': pickle.dumps(np.zeros(2, 'i4,f8')), 'text array': pickle.dumps(np.array(['x'])),
        'dates': pickle.dumps(np.array(['2000-01-01'], 'M8[D]')), 'void': array((1,), 'V8', b'\0' * 8),
        'long type name': array((1,), 'f' * 10 ** 5, b'\0' * 8), 'subarray type': array((1,), '(1000000000,)f4', b''),
        'long double': array((1,), 'f16', b'\0' * 16), 'type with fields': array(
            dtype_state=(3, '<', None, ('a',), {'a': 1}, 8, 8, 0)),
        'type with a strange order': array(dtype_state=(3, '?', None, None, None, -1, -1, 0)),
        'type with a short state': array(dtype_state=(3,)),
        'array without data': array((2,), 'f4', b''), 'too short': array((3,)), 'too long': array((1,)),
        'negative shape': array((-2,)), 'half a number': array((1,), 'f4', b'\0' * 7),
        'giant array': array((2 ** 38,)), 'giant product': array((2 ** 32, 2 ** 32)),
        'product of zeros and giants': array((2 ** 39, 0, 2 ** 39), 'f4', b''),
        'many axes': array((1,) * 64, 'f4', b'\0' * 4), 'shape of texts': array(('2',)),
        'shape of bools': array((True,)),
        'array never filled': b'\x80\x03' + global_name('numpy.core.multiarray _reconstruct')
        + global_name('numpy ndarray') + b'K\0\x85C\x01b\x87R.',
        'matrix': array().replace(b'ndarray', b'matrix'), 'masked array': pickle.dumps(np.ma.array([1.0])),
        'giant reconstruct': call('numpy.core.multiarray _reconstruct', np.ndarray, (2 ** 40,), b'b'),
        'giant bytes': b'\x80\x04\x8e' + struct.pack('<Q', 2 ** 62) + b'x.',
        'giant bytearray': b'\x80\x05\x96' + struct.pack('<Q', 2 ** 40) + b'x.',
        'giant text': b'\x80\x04\x8d' + struct.pack('<Q', 2 ** 62) + b'x.',
        'negative text': b'T' + struct.pack('<i', -1) + b'.',
        'giant number': b'\x8b' + struct.pack('<i', 2 ** 31 - 1) + b'.',
        'number of a million digits': b'L' + b'9' * 10 ** 6 + b'L\n.', 'too many objects': b'}' * 10 ** 6 + b'.',
        'a key that is a deep tuple': b'}' + b')' + b'\x85' * 10 ** 5 + b'Ns.', 'a key that is a list': b'}]Ns.',
        'a giant key': b'}\x8a\x09' + b'\x01' * 9 + b'Ns.',
        'nested lists': b']' * 10 ** 5 + b'a' * (10 ** 5 - 1) + b'.', 'nested tuples': b')' + b'\x85' * 10 ** 5 + b'.',
        'nested tuples as arguments': global_name('numpy dtype') + b')' + b'\x85' * 10 ** 5 + b'R.',
        'nested state': network(b'}' + text('a') + b']' * 10 ** 4 + b'a' * (10 ** 4 - 1) + b's'),
        'a list in itself': b']q\0h\0a.', 'a dict in itself': b'}q\0' + text('x') + b'h\0s.',
        'a tuple in itself': b'(]q\0h\1tq\1.', 'bytes again and again': text('x' * 10 ** 5) + b'q\0' + (
            global_name('_codecs encode') + b'h\0' + text('latin1') + b'\x86R') * 100 + b'.',
        'arrays again and again': b'B\xa0\x86\1\0' + b'\0' * 100000 + b'q\0' + (
            global_name('numpy.core.numeric _frombuffer') + b'(h\0' + global_name('numpy dtype') + text('f4')
            + b'\x85RM\xa8\x61\x85' + text('C') + b'tR0') * 1000 + b'.',
        # Small files that would take gigabytes or minutes to read.
        'ordered dicts again and again': b'](' + b''.join(text(str(i)) + b'N\x86' for i in range(2000)) + b'eq\0' + (
            global_name('collections OrderedDict') + b'h\0\x85R') * 2000 + b'.',
        'networks again and again': b'](' + network(b'}')[2:-1] * 10 ** 5 + b'e.',
        'marks': b'(' * 10 ** 6 + b'N.', 'notes': b'\x80\x04N' + b'\x94' * 10 ** 6 + b'.',
        'names again and again': b'\x80\x04' + text('numpy') + b'\x94' + text('ndarray') + b'\x94('
        + b'h\0h\1\x93' * 10 ** 5 + b'l.',
        'one item again and again': b'}' + text('k') + b'q\0(' + b'h\0N' * 10 ** 5 + b'u.',
        'many arguments': global_name('numpy dtype') + b'(' + b'N' * 10 ** 5 + b'tR.',
        'another encoding': call('_codecs encode', 'x', 'rot13'), 'bytes of a number': call('builtins bytes', 10 ** 10),
        'text beyond latin1': call('_codecs encode', '\u2603', 'latin1'),
        'axes out of order': call('numpy.core.numeric _frombuffer', 1), 'append to a dict': b'}NaN.',
        'items of a list': b']NNs.', 'odd items': b'}(Nu.', 'pop of nothing': b'0.', 'marks missing': b't.',
        'no memo': b'h\7.', 'memo of nothing': b'q\0.', 'empty stack': b'.', 'tuple of nothing': b'\x87.',
        'no end': b'N', 'wrong byte': b'\xff.',
        'ordered dict of nonsense': call('collections OrderedDict', 7),
        'a global alone': global_name('numpy ndarray') + b'.', 'a network without a state': network(b'')[:-2] + b'.',
    }


HOSTILE = hostile()


@pytest.mark.parametrize('what', HOSTILE)
def test_hostile_pickles(what, tmp_path):
    result = read(write(tmp_path, HOSTILE[what]))
    assert isinstance(result, str) and 'cannot be read as networks' in result, result
    assert not os.path.exists('/tmp/hostile-pickle-ran')


def test_small_states_that_expand_are_refused(tmp_path):
    """The memo makes small files expand: nested lists as an argument, a long name for many variables."""
    lists = b''.join(b'(' + (b'h%c' % (level - 1) if level else b'N') * 900 + b'lq%c0' % level for level in range(3))
    spec = {'func': text('G_paper'), 'x': b'h\2'}
    state = {'build_func_spec': b'}(' + b''.join(text(key) + value for key, value in spec.items()) + b'u',
             'param_values': b']'}
    ours = {'version': 3, 'name': 'G', 'func': 'networks.G_paper', 'static_kwargs': {}, 'toplevel_values': {}}
    name = text('x' * 10 ** 5) + b'K\1\x86q\0'
    named = {**{key: pickle.dumps(value, 2)[2:-1] for key, value in ours.items()},
             'param_values': b'](' + b'h\0' * 20000 + b'e'}
    wide = b'(' + b'N' * 10 ** 5 + b'lq\0(' + b'h\0' * 9000 + b'lq\2'
    for before, items, cls in ((lists, state, 'network Network'), (wide, state, 'network Network'),
                               (name, named, 'tfutil_shim Network')):
        body = b'}(' + b''.join(text(key) + value for key, value in items.items()) + b'u'
        assert isinstance(read(write(tmp_path, before + network(body, cls)[2:])), str)


def test_random_loops_take_little_memory(tmp_path):
    """Files that repeat a few random opcodes take little memory."""
    pieces = [b'N', b']', b'}', b')', b'(', b'e', b'l', b't', b'd', b'u', b'a', b's', b'2', b'0', b'1', b'q\0', b'h\0',
              b'q\1', b'h\1', b'\x85', b'\x86', b'R', b'b', b'\x81', b'K\1', text('latin1'), text('f4'),
              global_name('numpy dtype'), global_name('collections OrderedDict'), global_name('_codecs encode')]
    for seed in range(40):
        random = np.random.RandomState(seed)
        loop = b''.join(pieces[index] for index in random.randint(len(pieces), size=random.randint(1, 6)))
        read(write(tmp_path, b'\x80\x02]q\0)q\1' + loop * (20000 // len(loop)) + b'.'))


def test_there_is_a_limit_to_the_number_of_networks(tmp_path):
    """Networks with small arrays still have large graphs, so their number is limited."""
    state = small_state_2018()
    for num, is_read in ((3, True), (17, False)):
        networks = dumps([('tfutil.Network', dict(state)) for _index in range(num)])
        # Trailing bytes, so that the file is as large as its arrays.
        assert isinstance(read(write(tmp_path, networks + bytes(10 ** 5))), str) != is_read


def test_registered_extensions_are_refused(tmp_path):
    """Python's unpickler would call functions that other modules have registered."""
    copyreg.add_extension('os', 'system', 0x7777)
    try:
        data = b'\x80\x02\x83\x77\x77' + text('true') + b'\x85R.'
        assert 'the opcode EXT2 is not allowed' in read(write(tmp_path, data))
    finally:
        copyreg.remove_extension('os', 'system', 0x7777)


@pytest.mark.parametrize('what, data, value', [
    ('billion laughs', b']' + b'q\0(h\0h\0l' * 60 + b'.', None),
    ('a memo with giant numbers', b'Nr\xff\xff\xff\xff.', None),
    ('a giant frame', b'\x80\x04\x95' + b'\xff' * 8 + b'N.', None),
    ('a future protocol', b'\x80\x63K\x07.', 7), ('something behind the end', b'K\x07.cos\nsystem\n', 7)])
def test_harmless_oddities(what, data, value, tmp_path):
    """Odd but harmless pickles are read as data, quickly and with little memory."""
    result = read(write(tmp_path, data))
    assert not isinstance(result, str) and (value is None or result == value)


@pytest.mark.parametrize('what, content, message', [
    ('web page', b'\n <!DOCTYPE html><html>', 'is a web page'), ('empty', b'', 'is empty'),
    ('png', b'\x89PNG\r\n\x1a\n', 'cannot be read as networks'), ('hdf5', b'\x89HDF\r\n\x1a\n', 'cannot be read'),
    ('zip', b'PK\x03\x04', 'cannot be read as networks'), ('text', b'version https://', 'cannot be read as networks'),
    ('zeros', b'\0' * 1000, 'cannot be read as networks'), ('elf', b'\x7fELF', 'cannot be read as networks')])
def test_other_files(what, content, message, tmp_path):
    assert message in read(write(tmp_path, content))


def test_no_files(tmp_path):
    for path in (tmp_path, tmp_path / 'none', '/dev/zero'):
        with pytest.raises(UserError, match='there is no such file'):
            load_pkl(path)


# ----------------------------------------------------------------------------------------------------------------------
# Pickles that are read.


@pytest.mark.parametrize('protocol', range(6))
def test_plain_data(protocol, tmp_path):
    data = {'a': [1, -2.5, None, True, 10 ** 30], 'b': ('text \u2603', b'bytes', (), [], {}, b''), 3: {'x': 'y'},
            'long': list(range(2000)), 'same': None}
    data['same'] = data['a']
    result = safe_pickle.load(write(tmp_path, pickle.dumps(data, protocol)), {})
    assert result == data and result['same'] is result['a']


@pytest.mark.parametrize('protocol', range(6))
def test_arrays_and_numbers(protocol, tmp_path):
    dtypes = ('f2', 'f4', '>f4', 'f8', 'i1', 'u2', '>i8', 'c8')
    arrays = [np.arange(6, dtype=dtype).reshape(2, 3) for dtype in dtypes] + [np.array([True, False])]
    arrays += [np.asfortranarray(arrays[1]), arrays[1].T, arrays[1][:, ::2], np.float32(0.4), np.array(2.5),
               np.zeros((0, 3)), np.int64(7), np.bool_(True)]
    result = safe_pickle.load(write(tmp_path, pickle.dumps(arrays, protocol)), {})
    for ours, other in zip(result, arrays, strict=True):
        np.testing.assert_array_equal(ours, other)
        assert ours.dtype == other.dtype.newbyteorder('=') and ours.shape == other.shape
        assert isinstance(ours, np.ndarray) == isinstance(other, np.ndarray)


def test_arrays_of_newer_numpy(tmp_path):
    """Since NumPy 2.3, pickles of arrays in unusual memory orders contain the order of axes."""
    numbers = np.arange(6, dtype='f4')
    data = (b'\x80\x05' + global_name('numpy._core.numeric _frombuffer') + b'(C\x18' + numbers.tobytes()
            + global_name('numpy dtype') + text('f4') + b'\x85RK\x03K\x02\x86' + text('K') + b'K\x01K\0\x86tR.')
    result = safe_pickle.load(write(tmp_path, data), {})
    np.testing.assert_array_equal(result, numbers.reshape(3, 2).T)


def test_ordered_dicts(tmp_path):
    from collections import OrderedDict
    data = OrderedDict([('b', 1), ('a', [2])])
    for protocol in range(6):
        assert safe_pickle.load(write(tmp_path, pickle.dumps(data, protocol)), {}) == data
    python_2 = b'\x80\x02ccollections\nOrderedDict\n]]' + text('b') + b'aK\x01aa\x85R.'
    assert safe_pickle.load(write(tmp_path, python_2), {}) == {'b': 1}


def test_an_object_is_made_once(tmp_path):
    made = []
    data = dumps([('tfutil.Network', {'a': np.ones(2, 'f4')})], 2)
    twice = data[:-1] + b'q\x7f0h\x7fh\x7f\x86.'
    classes = {'tfutil.Network': lambda state: made.append(state) or [7]}
    first, second = safe_pickle.load(write(tmp_path, twice), classes)
    assert first is second and len(made) == 1 and made[0]['a'].tolist() == [1, 1]


# ----------------------------------------------------------------------------------------------------------------------
# Damaged files.


def structure(data):
    """Positions in a pickle outside the data of arrays."""
    ops = list(pickletools.genops(data))
    ends = [position for _op, _arg, position in ops[1:]] + [len(data)]
    return [place for (_op, _arg, begin), end in zip(ops, ends, strict=True)
            for place in range(begin, min(end, begin + 24))]


FIXTURES = ['snapshot.pkl', 'tf/pickles/uncond32.pkl', 'tf/pickles/cond16.pkl', 'tf/pickles/cond16-protocol5.pkl']


def mutated(data, places, random):
    """A copy of `data` with one to three bytes at `places` changed, inserted or removed."""
    data = bytearray(data)
    for _change in range(random.randint(1, 4)):
        place = places[random.randint(len(places))]
        what = random.randint(3)
        if what == 0:
            data[place:place + 1] = bytes([random.randint(256)])
        elif what == 1:
            data[place:place] = bytes([random.randint(256)])
        else:
            del data[place:place + 1]       # Earlier changes may have removed bytes.
    return bytes(data)


@pytest.mark.parametrize('fixture', FIXTURES)
def test_fuzzed_fixtures(fixture, tmp_path):
    """150 damaged versions of each file give a clear error or plain data. Networks are not built, to save time."""
    data = (GOLDEN / fixture).read_bytes()
    random, places = np.random.RandomState(5), structure(data)
    path = tmp_path / 'damaged.pkl'
    refused = 0
    watching.append(True)
    seen.clear()
    try:
        for _version in range(150):
            path.write_bytes(mutated(data, places, random))
            try:
                safe_pickle.load(path, {'network.Network': dict, 'tfutil.Network': dict})
            except UserError as error:
                assert '\n' not in str(error)
                refused += 1
    finally:
        watching.clear()
    assert not seen and 50 < refused < 150


@pytest.mark.parametrize('form', ['2017', '2018', 'ours'])
def test_fuzzed_networks(form, tmp_path):
    """100 damaged versions of a small pickle of each kind are loaded; networks are built if that is still possible."""
    np.random.seed(4)       # Seeds the weights.
    path = tmp_path / 'damaged.pkl'
    if form == 'ours':
        path.write_bytes(dumps([('tfutil.Network', small_state_2018())], 4))
        save_pkl(load_pkl(path), str(path))
        data = path.read_bytes()
    else:
        name, state = ('network', small_state_2017()) if form == '2017' else ('tfutil', small_state_2018())
        data = dumps([(name + '.Network', state)], 2)
    random, places = np.random.RandomState(6), structure(data)
    results = []
    for _version in range(100):
        path.write_bytes(mutated(data, places, random))
        results.append(read(str(path)))
    refused = sum(isinstance(result, str) for result in results)
    assert 30 < refused


@pytest.mark.parametrize('fixture', FIXTURES)
def test_truncated_fixtures(fixture, tmp_path):
    data = (GOLDEN / fixture).read_bytes()
    for length in [1, 2, 3, 10, 50, 100, 1000, len(data) // 2, len(data) - 100, len(data) - 2, len(data) - 1]:
        assert 'cannot be read as networks' in read(write(tmp_path, data[:length]))

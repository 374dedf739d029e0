"""Read pickles without executing anything in them.

Python's `pickle` calls every function that a file names. This reader accepts plain data (None, bool, int, float, str,
bytes, list, tuple, dict), NumPy arrays and numbers, and classes for which the caller provides a function of the state.
It imports nothing and calls no methods of objects. It reads protocols 0 to 5; strings of Python 2 are latin1.

Memory is counted before it is allocated. Text and numbers are limited by the file's size. Data derived from them, bytes
from text and arrays, may take `COPIES` times as much: strings of Python 2 become bytes, then an array, perhaps with
swapped byte order. All objects, container slots and copies of containers together may take `MEMORY`.
"""

import codecs
import io
import math
import os
import pickletools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import AnyPath

COPIES = 4
MEMORY = 2 ** 24            # Bytes. The paper's three networks take 3 MB.
MAX_FILE = 2 ** 32          # Bytes. Published networks take 0.3 GB.
# Upper bounds of the bytes that CPython uses, including those of `_finished`: copies of containers, and its table.
PLACE = 32                  # An object on the stack or in a list or tuple.
CONTAINER = 400             # An empty container.
ITEM = 240                  # An item of a dict.
NOTE = 160                  # An entry of the memo.
LITERAL = 64                # Text or a number, in addition to its content.
OBJECT = 500                # An array, dtype, name or instance.
MAX_DEPTH = 100             # Nesting depth of containers.
MAX_KEY = 2 ** 31           # Largest integer key of a dict.

LITERALS = {
    'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING',
    'SHORT_BINSTRING', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE',
    'BINUNICODE8'}
CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
ATOMS = (type(None), bool, int, float, str, bytes, np.ndarray, np.generic)
MAX_ARGS = 5                # Largest number of arguments of calls in NumPy's pickles.
ITEM_SIZES = {'b': (1,), 'i': (1, 2, 4, 8), 'u': (1, 2, 4, 8), 'f': (2, 4, 8), 'c': (8, 16)}


class Refused(ValueError):
    """The pickle is malformed, or uses something that is not allowed."""


class _Global:
    """A name that the pickle refers to, ``'module.name'``."""

    __slots__ = ('name',)

    def __init__(self, name):
        self.name = name


class _Instance:
    """An object of an allowed class: the function that makes it, and its state."""

    __slots__ = ('make', 'name', 'state')

    def __init__(self, name, make):
        self.name, self.make, self.state = name, make, None

    def set_state(self, state, machine):
        if self.state is not None or type(state) is not dict:
            raise Refused(f'{self.name} must have one state, a dict')
        self.state = state


class _Dtype:
    """The dtype of an array: boolean, integer, floating point or complex."""

    def __init__(self, name):
        if type(name) is not str:
            raise Refused('arrays of an unknown type')
        match = re.fullmatch(r'[<>=|]?([biufc])(\d{1,2})', name)
        if not match or int(match[2]) not in ITEM_SIZES[match[1]]:
            raise Refused(f'arrays of type {name!r:.40} are not allowed')
        self.dtype = np.dtype(name)

    def set_state(self, state, machine):
        """NumPy's state is (version, byte order, subarray, names, fields, size, alignment, flags)."""
        if type(state) is not tuple or len(state) < 5 or type(state[1]) is not str \
                or state[1] not in ('<', '>', '=', '|') \
                or any(item is not None for item in state[2:5]):
            raise Refused('a dtype with an unknown state')
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array whose shape, dtype and data come later."""

    value = None

    def set_state(self, state, machine):
        """NumPy's state is (version, shape, dtype, is Fortran order, bytes)."""
        if self.value is not None or type(state) is not tuple or len(state) != 5:
            raise Refused('an array with an unknown state')
        _version, shape, dtype, is_fortran, data = state
        self.value = machine.array(shape, dtype, data, 'F' if is_fortran else 'C')


class _Machine:
    """Executes a pickle: holds its stack and memo; each method with an opcode's name carries it out."""

    def __init__(self, data, classes):
        self.data = data
        self.classes = classes
        self.stack, self.marks, self.memo = [], [], {}
        self.memory_left, self.bytes_left = MEMORY, COPIES * len(data) + 4096

    def run(self):
        """Execute the pickle and return its object, which may still contain _Array and _Instance."""
        for name, arg in _operations(self.data):
            if name in LITERALS:
                self.push(arg, LITERAL)
            elif name in CONSTANTS:
                self.push(CONSTANTS[name])
            elif name == 'STOP':
                return self.stack.pop()
            else:
                carry_out = getattr(self, name, None)
                if carry_out is None:
                    raise Refused(f'the opcode {name} is not allowed')
                carry_out(arg)
        raise Refused('the pickle ends too early')

    def spend(self, num_bytes):
        """Count memory for objects."""
        self.memory_left -= num_bytes
        if self.memory_left < 0:
            raise Refused(f'the objects take more than {MEMORY >> 20} MB')

    def copy(self, num_bytes):
        """Count memory for data derived from the file's content."""
        self.bytes_left -= num_bytes
        if self.bytes_left < 0:
            raise Refused('the pickle claims more memory than its file has')

    def push(self, value, num_bytes=0):
        self.spend(PLACE + num_bytes)
        self.stack.append(value)

    # Stack and memo.

    def PROTO(self, arg):
        pass

    FRAME = PROTO

    def MARK(self, arg):
        self.spend(CONTAINER)
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self):
        items, self.stack = self.stack, self.marks.pop()
        return items

    def POP(self, arg):
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def POP_MARK(self, arg):
        self.pop_mark()

    def DUP(self, arg):
        self.push(self.stack[-1])

    def PUT(self, arg):
        self.spend(NOTE)
        self.memo[arg] = self.stack[-1]

    BINPUT = LONG_BINPUT = PUT

    def MEMOIZE(self, arg):
        self.PUT(len(self.memo))

    def GET(self, arg):
        self.push(self.memo[arg])

    BINGET = LONG_BINGET = GET

    def BYTEARRAY8(self, arg):
        self.copy(len(arg))
        self.push(bytes(arg), LITERAL)

    # Containers.

    # The slots of items were counted when the items were pushed on the stack.

    def EMPTY_LIST(self, arg):
        self.push([], CONTAINER)

    def EMPTY_TUPLE(self, arg):
        self.push(())

    def EMPTY_DICT(self, arg):
        self.push({}, CONTAINER)

    def LIST(self, arg):
        items = self.pop_mark()
        self.push(items, CONTAINER)

    def TUPLE(self, arg):
        items = self.pop_mark()
        self.push(tuple(items), CONTAINER)

    def DICT(self, arg):
        items = self.pop_mark()
        self.EMPTY_DICT(arg)
        self.set_items(items)

    def tuple_of(self, num):
        if len(self.stack) < num:
            raise Refused('a tuple lacks members')
        self.spend(CONTAINER)
        self.stack[-num:] = [tuple(self.stack[-num:])]

    def TUPLE1(self, arg):
        self.tuple_of(1)

    def TUPLE2(self, arg):
        self.tuple_of(2)

    def TUPLE3(self, arg):
        self.tuple_of(3)

    def append_items(self, items):
        if type(self.stack[-1]) is not list:
            raise Refused('the target of an append is not a list')
        self.stack[-1].extend(items)

    def APPEND(self, arg):
        self.append_items([self.stack.pop()])

    def APPENDS(self, arg):
        self.append_items(self.pop_mark())

    def set_items(self, items):
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise Refused('the target of item assignment is not a dict')
        self.spend(ITEM * (len(items) // 2))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes, int, bool, type(None)) or type(key) is int and abs(key) > MAX_KEY:
                raise Refused(f'a dict has a key of type {type(key).__name__}')
            target[key] = value

    def SETITEM(self, arg):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def SETITEMS(self, arg):
        self.set_items(self.pop_mark())

    # Objects.

    def GLOBAL(self, arg):
        name = arg.replace(' ', '.')
        if name not in self.classes and name not in REDUCERS and name not in NAMES:
            raise Refused(f'the name {name!r:.80} is not allowed')
        self.push(_Global(name), OBJECT)

    def STACK_GLOBAL(self, arg):
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused('a name is not a text')
        self.GLOBAL(module + ' ' + name)

    def new(self, cls):
        if type(cls) is not _Global or cls.name not in self.classes:
            raise Refused('an object has a class that is not allowed')
        return _Instance(cls.name, self.classes[cls.name])

    def NEWOBJ(self, arg):
        args, cls = self.stack.pop(), self.stack.pop()
        if type(args) is not tuple or args:
            raise Refused('an object has arguments')
        self.push(self.new(cls), OBJECT)

    def REDUCE(self, arg):
        args, func = self.stack.pop(), self.stack.pop()
        if type(func) is not _Global or func.name not in REDUCERS or type(args) is not tuple:
            raise Refused('a call is not allowed')
        if len(args) > MAX_ARGS:
            raise Refused('a call has too many arguments')
        self.push(REDUCERS[func.name](self, *args), OBJECT)

    def BUILD(self, arg):
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) not in (_Array, _Dtype, _Instance):
            raise Refused('a state belongs to an object without state')
        target.set_state(state, self)

    # Functions that NumPy's pickles call.

    def array(self, shape, dtype, data, order='C'):
        """A read-only array in this machine's byte order; a view of the file's bytes if they already have it."""
        if type(data) is str:
            data = self.encode(data)
        if type(shape) is not tuple or len(shape) > 32 or any(type(size) is not int or not 0 <= size < 2 ** 40
                                                              for size in shape):
            raise Refused('an array has an invalid shape')
        if type(data) is not bytes or type(dtype) is not _Dtype or type(order) is not str or order not in ('C', 'F'):
            raise Refused('an array does not consist of numbers')
        size, wanted = math.prod(shape), len(data) // dtype.dtype.itemsize
        if size != wanted or len(data) % dtype.dtype.itemsize:
            raise Refused(f'an array of {size} numbers has {len(data)} bytes')
        self.copy(len(data))
        values = np.frombuffer(data, dtype.dtype) if data else np.empty(0, dtype.dtype)
        return values.astype(dtype.dtype.newbyteorder('='), copy=False).reshape(shape, order=order)

    def encode(self, text, encoding='latin1'):
        """Convert text to bytes: Python 3 writes bytes so in protocol 2, and strings of Python 2 are bytes."""
        if type(text) is not str or type(encoding) is not str or encoding not in ('latin1', 'latin-1'):
            raise Refused('bytes in an unknown encoding')
        self.copy(len(text))
        return text.encode('latin1')

    def make_array(self, subtype, shape, code):
        if type(subtype) is not _Global or subtype.name != 'numpy.ndarray' or type(shape) is not tuple \
                or len(shape) != 1 or type(shape[0]) is not int or shape[0] or type(code) not in (str, bytes):
            raise Refused('an array of an unknown class')
        return _Array()

    def make_dtype(self, name, align=False, copy=True):
        return _Dtype(name)

    def make_scalar(self, dtype, data):
        return self.array((), dtype, data)[()]

    def make_from_buffer(self, data, dtype, shape, order, axis_order=None):
        if type(order) is str and order == 'K' and axis_order is not None:
            array = self.array(shape, dtype, data)
            if type(axis_order) is not tuple or len(axis_order) != array.ndim \
                    or not all(type(axis) is int for axis in axis_order) \
                    or sorted(axis_order) != list(range(array.ndim)):
                raise Refused('an array with an unknown order of axes')
            return array.transpose(axis_order)
        return self.array(shape, dtype, data, order)

    def make_bytes(self):
        return b''

    def make_dict(self, items=()):
        if type(items) not in (list, tuple) or any(type(item) not in (list, tuple) or len(item) != 2 for item in items):
            raise Refused('an ordered dict of an unknown form')
        self.spend(2 * PLACE * len(items))
        self.EMPTY_DICT(None)
        self.set_items([part for item in items for part in item])
        return self.stack.pop()

    def make_instance(self, cls, base, state):
        if type(base) is not _Global or base.name not in NAMES or state is not None:
            raise Refused('an object has a class that is not allowed')
        return self.new(cls)


# Functions under the names that Python 2 and 3, NumPy 1 and 2 use, and names that are only referred to.
REDUCERS = {'numpy.dtype': _Machine.make_dtype, '_codecs.encode': _Machine.encode,
            'collections.OrderedDict': _Machine.make_dict}
for _core in ('numpy.core', 'numpy._core'):
    REDUCERS[_core + '.multiarray._reconstruct'] = _Machine.make_array
    REDUCERS[_core + '.multiarray.scalar'] = _Machine.make_scalar
    REDUCERS[_core + '.numeric._frombuffer'] = _Machine.make_from_buffer
for _builtins, _copyreg in (('builtins', 'copyreg'), ('__builtin__', 'copy_reg')):
    REDUCERS[_builtins + '.bytes'] = _Machine.make_bytes
    REDUCERS[_copyreg + '._reconstructor'] = _Machine.make_instance
NAMES = {'numpy.ndarray', 'builtins.object', '__builtin__.object'}


OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}


def _operations(data: bytes) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the opcodes of a pickle."""
    stream = io.BytesIO(data)
    while code := stream.read(1).decode('latin1'):
        if code not in OPCODES:
            raise Refused(f'damaged or not a pickle (it has {code!r} at byte {stream.tell() - 1})')
        opcode = OPCODES[code]
        if opcode.name == 'STRING':     # A string of Python 2; pickletools reads ASCII only.
            yield opcode.name, codecs.escape_decode(pickletools.read_stringnl(stream, decode=False))[0].decode('latin1')
        else:
            yield opcode.name, opcode.arg.reader(stream) if opcode.arg else None


def _finished(value, done, depth=0):
    """Replace _Array and _Instance in `value` by arrays and objects. `done` caches results: {id: result}."""
    if isinstance(value, ATOMS):
        return value
    if id(value) in done:
        if done[id(value)] is done:
            raise Refused('a container contains itself')
        return done[id(value)]
    if depth > MAX_DEPTH:
        raise Refused(f'containers are nested more than {MAX_DEPTH} deep')
    done[id(value)] = done
    if type(value) in (list, tuple):
        result = type(value)([_finished(item, done, depth + 1) for item in value])
    elif type(value) is dict:
        result = {key: _finished(item, done, depth + 1) for key, item in value.items()}
    elif type(value) is _Array and value.value is not None:
        result = value.value
    elif type(value) is _Instance and value.state is not None:
        result = value.make(_finished(value.state, done, depth + 1))
    elif type(value) is _Instance:
        raise Refused(f'an object of class {value.name} has no state')
    else:
        raise Refused('an array, a dtype or a name is in an unexpected place')
    done[id(value)] = result
    return result


def load(path: AnyPath, classes: dict[str, Callable[[dict], Any]], kind: str = 'networks') -> Any:
    """Read a pickle.

    Parameters
    ----------
    path : str
    classes : dict
        {``'module.name'``: function of the object's state, a dict of plain data and arrays, that returns the object}.
    kind : str
        Description of the file's content, for messages.

    Returns
    -------
    object
        Arrays are read-only.

    Raises
    ------
    UserError
        The file is missing, not a pickle, or uses something that is not allowed; the message names it.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise UserError(f'{path}: there is no such file')
    try:
        if os.path.getsize(path) > MAX_FILE:
            raise UserError(f'{path}: is larger than {MAX_FILE >> 30} GB, too large for {kind}')
        with open(path, 'rb') as pickle_file:
            data = pickle_file.read()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if not data:
        raise UserError(f'{path}: is empty; copy or download it again')
    if data[:256].lstrip()[:1] == b'<':
        raise UserError(f'{path}: is a web page, not a pickle; download it again')
    try:
        machine = _Machine(data, classes)
        return _finished(machine.run(), {})
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        reason = str(error) if isinstance(error, Refused) else f'damaged or not a pickle ({error!s:.100})'
        raise UserError(f'{path}: cannot be read as {kind}: {" ".join(reason.split())}') from error

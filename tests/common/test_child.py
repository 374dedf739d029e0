"""common.child: records are streamed; crashes, user errors, bugs and lack of memory are one-line errors."""

import os
import signal
import time

import pytest

from common.child import read_in_child
from common.errors import UserError


def records(_path, num, size):
    for number in range(num):
        yield str(number).encode(), bytes(size)


def crash(_path, number):
    yield (b'first',)
    os.kill(os.getpid(), number)


def mistake(path):
    print('not a record')
    raise UserError(f'{path}: is damaged')
    yield ()


def bug(_path):
    raise KeyError('a bug')
    yield ()


def hungry(_path):
    yield (bytes(1 << 34),)


def endless(_path):
    time.sleep(100)
    yield ()


def test_records_are_streamed_and_the_process_ends_with_the_generator():
    found = list(read_in_child('a', records, 'a', 3000, 1000))
    assert [record[0] for record in found] == [str(number).encode() for number in range(3000)]
    assert {len(record[1]) for record in found} == {1000}
    stream = read_in_child('a', records, 'a', 10 ** 9, 1000)    # Reading all records would take hours.
    assert next(stream)[0] == b'0'
    stream.close()


@pytest.mark.parametrize('name', ['SIGSEGV', 'SIGABRT', 'SIGKILL'])
def test_a_crash_is_reported(name):
    stream = read_in_child('a\udce4.mdb', crash, 'a', getattr(signal, name, signal.SIGTERM))
    with pytest.raises(UserError, match=f'a\udce4.mdb: is damaged: the process that reads it ended by {name}; copy or'):
        list(stream)


@pytest.mark.parametrize('read, kwargs, error, message', [
    (mistake, {}, UserError, '^a\udce4: is damaged$'), (bug, {}, RuntimeError, "KeyError: 'a bug'"),
    (hungry, {'max_memory': 1 << 32}, UserError, 'a\udce4: needs more than the 4294967296 bytes that a process'),
    (endless, {'max_seconds': 0.5}, UserError, 'the process that reads it took more than 0.5 seconds'),
])
def test_other_ends(read, kwargs, error, message):
    with pytest.raises(error, match=message):
        list(read_in_child('a', read, 'a\udce4', **kwargs))

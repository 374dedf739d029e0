"""metrics.threads: results in order, errors, and one BLAS thread per worker thread."""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from metrics import threads


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(threads, 'num_cores', lambda: 4)


def test_results_are_those_of_map(four_cores):
    assert threads.map_threads(lambda a, b: a - b, range(20), range(0, 40, 2)) == [-number for number in range(20)]
    assert threads.map_threads(str, []) == [] and threads.map_threads(str, [3]) == ['3']


def test_several_threads_work_at_the_same_time(four_cores):
    barrier = threading.Barrier(4, timeout=60)      # Only four simultaneous calls pass it.
    names = threads.map_threads(lambda _item: barrier.wait() * 0 or threading.current_thread().name, range(4))
    assert len(set(names)) == 4 and threading.current_thread().name not in names


def test_one_core_needs_no_thread(monkeypatch):
    monkeypatch.setattr(threads, 'num_cores', lambda: 1)
    assert set(threads.map_threads(lambda _item: threading.current_thread(), range(3))) == {threading.current_thread()}


def test_matrix_products_within_have_one_thread(four_cores):
    def blas_threads():
        return [library['num_threads'] for library in threadpool_info() if library['user_api'] == 'blas']

    before = blas_threads()
    assert before, 'NumPy brings one'
    for counts in threads.map_threads(lambda _item: blas_threads(), range(4)):
        assert set(counts) == {1}
    assert blas_threads() == before


def test_an_error_is_the_callers(four_cores):
    with pytest.raises(ZeroDivisionError):
        threads.map_threads(lambda number: 1 // number, [1, 0, 2])
    with pytest.raises(ValueError, match='longer'):
        threads.map_threads(lambda a, b: a, [1, 2], [1, 2, 3])


@pytest.mark.parametrize('num, size', [(0, 3), (1, 3), (6, 3), (7, 3)])
def test_blocks_cut_into_pieces(num, size):
    rows, blocks = np.arange(num), threads.blocks(num, size)
    np.testing.assert_array_equal([row for block in blocks for row in rows[block]], rows)
    assert len(blocks) == -(-num // size) and all(len(rows[block]) <= size for block in blocks)

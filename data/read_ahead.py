"""Read images ahead of the training, in the order in which it is going to take them."""

import collections
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

import h5py
import numpy as np

from common.errors import UserError
from data.chunk_reader import open_readers

Job = tuple[Callable[[Any], None], Any, concurrent.futures.Future[None]]     # Function, item, end.


class ReadAhead:
    """Reads images and, in threads, those that come next.

    What is read ahead is looked up by image, never by its place in the order, so that a reshuffle in the meantime can
    cost a read but never gives a wrong image.
    """

    def __init__(self, h5: h5py.File, levels: list[h5py.Dataset], cache_bytes: float, num_threads: int) -> None:
        self.files = contextlib.ExitStack()
        self.levels = self.files.enter_context(open_readers(h5, levels))    # By lod.
        self.kept = [level.size <= cache_bytes for level in levels]
        self.num_threads = num_threads
        self.threads: list[threading.Thread] = []
        self.images: list[dict[int, np.ndarray]] = [{} for _level in levels]    # By lod: index -> (C, H, W) uint8.
        self.jobs: collections.deque[Job] = collections.deque()     # Of for_each; done first.
        # (lod, index) to be read ahead, as its keys.
        self.wanted: collections.OrderedDict[tuple[int, int], None] = collections.OrderedDict()
        self.reading: set[tuple[int, int]] = set()  # (lod, index) that some thread is reading.
        self.closed = False
        self.lock = threading.RLock()               # Guards the five above; garbage collection may call close() inside.
        self.work_came = threading.Condition(self.lock)
        self.reading_ended = threading.Condition(self.lock)

    def read(self, lod: int, index: int) -> np.ndarray:
        """One image, (C, H, W) uint8, not to be written to. Any thread may call this."""
        key = lod, index
        with self.lock:
            self.reading_ended.wait_for(lambda: key not in self.reading)
            image = self.images[lod].get(index)
            if image is not None:
                return image
            self.wanted.pop(key, None)      # Lest a thread read it once more.
            self.reading.add(key)
        return self.load(key, self.kept[lod])

    def load(self, key: tuple[int, int], keep: bool) -> np.ndarray:
        """Read an image that is marked in `reading`."""
        lod, index = key
        image = None
        try:
            image = self.levels[lod].read(index)
        finally:
            with self.lock:
                if keep and image is not None:
                    self.images[lod][index] = image
                self.reading.discard(key)
                self.reading_ended.notify_all()
        return image

    def read_ahead(self, lod: int, indices: np.ndarray) -> None:
        """Ask for these images; others are forgotten unless their level stays in memory."""
        indices = indices.tolist()
        with self.lock:
            for level, images in enumerate(self.images):
                if not self.kept[level]:
                    self.images[level] = {i: images[i] for i in indices if i in images} if level == lod else {}
            self.wanted = collections.OrderedDict.fromkeys((lod, i) for i in indices if i not in self.images[lod])
            self.wake_threads(len(self.wanted))

    def for_each(self, function: Callable[[Any], None], items: Iterable[Any]) -> None:
        """Call `function` with every item, in the threads and here; raises the error of the first item that has one."""
        jobs: list[Job] = [(function, item, concurrent.futures.Future()) for item in items]
        with self.lock:
            self.jobs.extend(jobs)
            self.wake_threads(len(jobs) - 1)
        while self.run_job():
            pass
        for _function, _item, future in jobs:
            future.exception()      # Waits: nothing is left running.
        for _function, _item, future in jobs:
            future.result()

    def wake_threads(self, num_tasks: int) -> None:
        """The threads start when they are first needed."""
        if num_tasks > 0 and not self.threads and not self.closed:
            self.threads = [threading.Thread(target=self.run, name='dataset read-ahead', daemon=True)
                            for _ in range(self.num_threads)]
            for thread in self.threads:
                thread.start()
        self.work_came.notify(max(num_tasks, 0))

    def run_job(self) -> bool:
        """Do what :meth:`for_each` left to do; False if that is nothing."""
        with self.lock:
            if not self.jobs:
                return False
            function, item, future = self.jobs.popleft()
        try:
            function(item)
        except BaseException as error:      # Raised again by for_each.
            future.set_exception(error)
        else:
            future.set_result(None)
        return True

    def run(self) -> None:
        while True:
            with self.lock:
                self.work_came.wait_for(lambda: self.closed or self.jobs or self.wanted)
                if self.closed:
                    return
            if self.run_job():
                continue
            with self.lock:
                if not self.wanted:
                    continue
                key, _none = self.wanted.popitem(last=False)
                if key[1] in self.images[key[0]] or key in self.reading:
                    continue
                self.reading.add(key)
            # Whoever needs an image that is damaged will read it again and report the error.
            with contextlib.suppress(UserError, OSError):
                self.load(key, True)

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.work_came.notify_all()
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()
        self.files.close()

"""Read images ahead of training, in the order in which training will use them."""

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

Job = tuple[Callable[[Any], None], Any, concurrent.futures.Future[None]]     # Function, its argument, completion.


class ReadAhead:
    """Reads images on request and, in threads, the images that will be requested next.

    Images that were read ahead are looked up by their index, not by their position in the order. A reshuffle in between
    can therefore waste a read, but never gives a wrong image.
    """

    def __init__(self, h5: h5py.File, levels: list[h5py.Dataset], cache_bytes: float, num_threads: int) -> None:
        self.files = contextlib.ExitStack()
        self.levels = self.files.enter_context(open_readers(h5, levels))    # Indexed by lod.
        self.kept = [level.size <= cache_bytes for level in levels]
        self.num_threads = num_threads
        self.threads: list[threading.Thread] = []
        self.images: list[dict[int, np.ndarray]] = [{} for _level in levels]    # Per lod: index -> (C, H, W) uint8.
        self.jobs: collections.deque[Job] = collections.deque()     # Jobs of for_each; they have priority.
        # Keys (lod, index) to read ahead, in order.
        self.wanted: collections.OrderedDict[tuple[int, int], None] = collections.OrderedDict()
        self.reading: set[tuple[int, int]] = set()  # Keys (lod, index) that a thread is reading.
        self.closed = False
        self.lock = threading.RLock()               # Guards the five above. Garbage collection may call close() inside.
        self.work_came = threading.Condition(self.lock)
        self.reading_ended = threading.Condition(self.lock)

    def read(self, lod: int, index: int) -> np.ndarray:
        """Read one image, (C, H, W) uint8; do not write to it. Any thread may call this."""
        key = lod, index
        with self.lock:
            self.reading_ended.wait_for(lambda: key not in self.reading)
            image = self.images[lod].get(index)
            if image is not None:
                return image
            self.wanted.pop(key, None)      # Otherwise a thread would read it again.
            self.reading.add(key)
        return self.load(key, self.kept[lod])

    def load(self, key: tuple[int, int], keep: bool) -> np.ndarray:
        """Read an image that is already marked in `reading`."""
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
        """Request images to be read ahead; earlier ones are dropped, unless their level stays in memory."""
        indices = indices.tolist()
        with self.lock:
            for level, images in enumerate(self.images):
                if not self.kept[level]:
                    self.images[level] = {i: images[i] for i in indices if i in images} if level == lod else {}
            self.wanted = collections.OrderedDict.fromkeys((lod, i) for i in indices if i not in self.images[lod])
            self.wake_threads(len(self.wanted))

    def for_each(self, function: Callable[[Any], None], items: Iterable[Any]) -> None:
        """Call `function` with every item, in the threads and here; raise the first failing item's error."""
        jobs: list[Job] = [(function, item, concurrent.futures.Future()) for item in items]
        with self.lock:
            self.jobs.extend(jobs)
            self.wake_threads(len(jobs) - 1)
        while self.run_job():
            pass
        for _function, _item, future in jobs:
            future.exception()      # Wait, so that nothing is left running.
        for _function, _item, future in jobs:
            future.result()

    def wake_threads(self, num_tasks: int) -> None:
        """Wake up to `num_tasks` threads; they are started on first use."""
        if num_tasks > 0 and not self.threads and not self.closed:
            self.threads = [threading.Thread(target=self.run, name='dataset read-ahead', daemon=True)
                            for _ in range(self.num_threads)]
            for thread in self.threads:
                thread.start()
        self.work_came.notify(max(num_tasks, 0))

    def run_job(self) -> bool:
        """Run one pending job of :meth:`for_each`; False if there is none."""
        with self.lock:
            if not self.jobs:
                return False
            function, item, future = self.jobs.popleft()
        try:
            function(item)
        except BaseException as error:      # for_each raises it again.
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
            # The caller that needs a damaged image reads it again and reports the error.
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

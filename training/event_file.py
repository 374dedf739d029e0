"""TensorBoard event files, if the package `tensorboard` is there (``pip install '.[tensorboard]'``)."""

import io
import os
import time

from PIL import Image

from common.files import GrowingFile
from runs.folder import EVENTS_FILE

MAX_PICTURE_PIXELS = 1024   # Width and height.


class EventFile:
    """Scalars and pictures of one run for ``tensorboard --logdir results``; does nothing without that package.

    All that a run writes, resumed or not, is in one file, so that it can be cut where the run goes on.

    Parameters
    ----------
    run_dir : str
    """

    def __init__(self, run_dir: str) -> None:
        self.file = GrowingFile(os.path.join(run_dir, EVENTS_FILE))
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            self.available = False
            return
        self.available = True
        self.Event, self.Summary, self.RecordWriter = event_pb2.Event, summary_pb2.Summary, RecordWriter

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Append {tag: number}; `step` is the number of real images shown.

        Raises
        ------
        WriteError
        """
        if self.available:
            self._append(step, [self.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def picture(self, step: int, tag: str, image: Image.Image) -> None:
        """Append a Pillow image; a large one becomes smaller, lest the events outgrow all else.

        Raises
        ------
        WriteError
        """
        if self.available:
            encoded, image = io.BytesIO(), image.copy()
            image.thumbnail((MAX_PICTURE_PIXELS, MAX_PICTURE_PIXELS))
            image.save(encoded, 'png')
            summary = self.Summary.Image(height=image.height, width=image.width,
                                         encoded_image_string=encoded.getvalue())
            self._append(step, [self.Summary.Value(tag=tag, image=summary)])

    def _append(self, step, values):
        events = [self.Event(wall_time=time.time(), step=step, summary=self.Summary(value=values))]
        path = self.file.path
        if not self.file.waiting and not (os.path.exists(path) and os.path.getsize(path)):
            events.insert(0, self.Event(wall_time=time.time(), file_version='brain.Event:2'))
        records = io.BytesIO()
        for event in events:
            self.RecordWriter(records).write(event.SerializeToString())
        self.file.append(records.getvalue())

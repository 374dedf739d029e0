"""Writes TensorBoard event files if the package `tensorboard` is installed (``pip install '.[tensorboard]'``)."""

import io
import os
import time

from PIL import Image

from common.files import GrowingFile
from runs.folder import EVENTS_FILE

MAX_PICTURE_PIXELS = 1024   # Width and height.
TAGS = {                    # {statistic: tag}; TensorBoard groups tags by the part before the slash.
    'Gloss': 'Loss/G', 'Dloss': 'Loss/D', 'Dreal': 'Scores/real', 'Dfake': 'Scores/fake', 'Dgdrop': 'Scores/gdrop',
    'tick': 'Progress/tick', 'kimg': 'Progress/kimg', 'lod': 'Progress/lod', 'resolution': 'Progress/resolution',
    'minibatch': 'Progress/minibatch', 'seconds': 'Timing/sec', 'sec_per_tick': 'Timing/sec per tick',
    'sec_per_kimg': 'Timing/sec per kimg', 'compile_seconds': 'Timing/compile sec',
    'metric_seconds': 'Timing/metric sec', 'peak_memory_mb': 'Memory/peak MB',
    # The value that ranks networks by a metric has the metric's name.
    'SWDx1e3_avg': 'Metrics/swd', 'FID': 'Metrics/fid', 'IS_mean': 'Metrics/inception_score',
    'MS-SSIM': 'Metrics/ms_ssim', 'modes_mean': 'Metrics/mnist_modes'}


def tag_of(name: str) -> str:
    """The TensorBoard tag of a statistic; statistics that are not in `TAGS` belong to metrics."""
    return TAGS.get(name, f'Metrics/{name}')


class EventFile:
    """Scalars, pictures and texts of one run for ``tensorboard --logdir results``.

    A run has one event file, also after it is resumed, so that it can be truncated to the resumed state. Without the
    package `tensorboard`, nothing is written.

    Parameters
    ----------
    run_dir : str
    """

    def __init__(self, run_dir: str) -> None:
        self.file = GrowingFile(os.path.join(run_dir, EVENTS_FILE))
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.plugins.text import metadata
            from tensorboard.summary.writer.record_writer import RecordWriter
            from tensorboard.util.tensor_util import make_tensor_proto
        except ImportError:
            self.available = False
            return
        self.available = True
        self.Event, self.Summary, self.RecordWriter = event_pb2.Event, summary_pb2.Summary, RecordWriter
        self.make_tensor, self.text_metadata = make_tensor_proto, metadata.create_summary_metadata

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Append statistics, {name: number}; `step` is the number of real images shown.

        Raises
        ------
        WriteError
        """
        if self.available:
            self._append(step, [self.Summary.Value(tag=tag_of(name), simple_value=value)
                                for name, value in values.items()])

    def picture(self, step: int, tag: str, image: Image.Image) -> None:
        """Append a Pillow image, downscaled to `MAX_PICTURE_PIXELS` to keep the file small.

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

    def text(self, step: int, tag: str, text: str) -> None:
        """Append a preformatted text.

        Raises
        ------
        WriteError
        """
        if self.available:
            markdown = ''.join(f'    {line}\n' for line in text.splitlines())       # Four spaces: a code block.
            metadata = self.text_metadata(display_name=None, description=None)
            self._append(step, [self.Summary.Value(tag=tag, metadata=metadata, tensor=self.make_tensor(
                [markdown.encode()]))])

    def _append(self, step, values):
        events = [self.Event(wall_time=time.time(), step=step, summary=self.Summary(value=values))]
        path = self.file.path
        if not self.file.waiting and not (os.path.exists(path) and os.path.getsize(path)):
            events.insert(0, self.Event(wall_time=time.time(), file_version='brain.Event:2'))
        records = io.BytesIO()
        for event in events:
            self.RecordWriter(records).write(event.SerializeToString())
        self.file.append(records.getvalue())

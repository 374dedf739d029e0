"""training/event_file.py: one event file per run that TensorBoard reads, and a run without that package."""

import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

import metrics
from common.errors import WriteError
from training import event_file


def events_of(run_dir):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    events = accumulator.EventAccumulator(str(run_dir), {'images': 0, 'scalars': 0})
    events.Reload()
    return events


def test_numbers_and_pictures_of_several_lives_are_in_one_file(tmp_path):
    pictures = {'small': Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)),
                'large': Image.new('L', (3000, 1500))}
    event_file.EventFile(str(tmp_path)).scalars(1000, {'Gloss': 0.5, 'lod': 2})
    second = event_file.EventFile(str(tmp_path))         # Like a resumed run.
    second.scalars(2000, {'Gloss': 0.25, 'lod': 1})
    for step, (name, picture) in enumerate(pictures.items()):
        second.picture(step, name, picture)
    assert pictures['large'].size == (3000, 1500)       # The caller's picture is unchanged.
    assert os.listdir(tmp_path) == [os.path.basename(second.file.path)]
    events = events_of(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars('Loss/G')] == [(1000, 0.5), (2000, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars('Progress/lod')] == [(1000, 2), (2000, 1)]
    small, large = [Image.open(io.BytesIO(events.Images(name)[0].encoded_image_string)) for name in ('small', 'large')]
    np.testing.assert_array_equal(np.asarray(small).ravel(), np.arange(64))
    assert large.size == (event_file.MAX_PICTURE_PIXELS, event_file.MAX_PICTURE_PIXELS // 2)


def test_names_in_tensorboard():
    assert event_file.tag_of('Dfake') == 'Scores/fake' and event_file.tag_of('SWDx1e3_16') == 'Metrics/SWDx1e3_16'
    for name, tag in event_file.TAGS.items():
        group, _, metric = tag.partition('/')
        assert group != 'Metrics' or metrics.decision(metric)[0] == name


def test_texts_are_shown_as_they_are(tmp_path):
    events = event_file.EventFile(str(tmp_path))
    events.text(0, 'Configuration/config.txt', "{'a': 1,\n 'b': *2*}\n")
    accumulator = events_of(tmp_path)
    assert accumulator.PluginTagToContent('text').keys() == {'Configuration/config.txt'}
    event, = accumulator.Tensors('Configuration/config.txt')
    assert list(event.tensor_proto.string_val) == [b"    {'a': 1,\n     'b': *2*}\n"]


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorboard.summary.writer.record_writer', None)
    events = event_file.EventFile(str(tmp_path))
    assert not events.available
    events.scalars(1, {'Gloss': 1.0})
    events.text(1, 'x', 'y')
    events.picture(1, 'fakes', tmp_path / 'there-is-none.png')
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_written(tmp_path):
    events = event_file.EventFile(str(tmp_path / 'missing'))
    with pytest.raises(WriteError):
        events.scalars(1, {'Gloss': 1.0})

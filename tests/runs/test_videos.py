"""videos: an encoder that fails leaves nothing, and says why."""

import os
import sys
import types

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from runs.videos import video_writer

FFMPEG = '''#!{python}
import sys
data = sys.stdin.buffer.read({read})
with open(sys.argv[-1], 'wb') as file:
    file.write(data)
print({said!r}, file=sys.stderr)
sys.exit({status})
'''


def use_ffmpeg(folder, monkeypatch, read=-1, said='', status=0):
    path = folder / 'ffmpeg'
    path.write_text(FFMPEG.format(python=sys.executable, read=read, said=said, status=status))
    path.chmod(0o755)
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', types.SimpleNamespace(get_ffmpeg_exe=lambda: str(path)))


def write(path, num=3):
    with video_writer(str(path), 30) as write_image:
        for _ in range(num):
            write_image(Image.fromarray(np.zeros((501, 500, 3), np.uint8)))


@pytest.mark.skipif(os.name == 'nt', reason='the encoder here is a script')
@pytest.mark.parametrize('read', [-1, 10], ids=['at the end', 'midway'])
def test_an_encoder_that_fails(read, tmp_path, monkeypatch):
    (tmp_path / 'new').mkdir()
    use_ffmpeg(tmp_path, monkeypatch, read, 'the header\nav_write_trailer: No space left on device\n', 1)
    for old in (False, True):
        if old:
            (tmp_path / 'new' / 'a.mp4').write_text('the old video')
        with pytest.raises(UserError, match=r'a.mp4: cannot be written \(av_write_trailer: No space left on device\)'):
            write(tmp_path / 'new' / 'a.mp4')
        assert [path.read_text() for path in (tmp_path / 'new').iterdir()] == ['the old video'] * old
    use_ffmpeg(tmp_path, monkeypatch, status=3)
    with pytest.raises(UserError, match=r'cannot be written \(ffmpeg ended with exit status 3\)'):
        write(tmp_path / 'new' / 'a.mp4')
    use_ffmpeg(tmp_path, monkeypatch)
    write(tmp_path / 'new' / 'a.mp4')
    assert (tmp_path / 'new' / 'a.mp4').stat().st_size == 3 * 502 * 500 * 3


def test_a_video_can_be_read(tmp_path):
    imageio_ffmpeg = pytest.importorskip('imageio_ffmpeg')
    write(tmp_path / 'a.mp4')
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / 'a.mp4'))[0] == 3
    assert os.listdir(tmp_path) == ['a.mp4']

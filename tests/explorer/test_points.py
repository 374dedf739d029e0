"""explorer/points.py: validation of requests, and interpolation between points."""

import json

import numpy as np
import pytest

from common.errors import UserError
from explorer.points import ImagesRequest, Point, TrayRequest, blend, parse, slerp, way

POINT = {'latents': [1.0, 0.0], 'label': [0.0, 1.0], 'psi': 0.5, 'lod': 1.5}


@pytest.mark.parametrize('change, words', [
    ({'latents': []}, 'points.0.latents: List should have at least 1 item'),
    ({'latents': [1.0, 'x']}, 'points.0.latents.1: Input should be a valid number'),
    ({'latents': ['1']}, 'points.0.latents.0: Input should be a valid number'),
    ({'latents': [1e5]}, 'less than or equal to 10000'),
    ({'latents': [float('nan')]}, 'points.0.latents.0'),
    ({'label': [-0.1]}, 'points.0.label.0'),
    ({'psi': 2.5}, 'points.0.psi: Input should be less than or equal to 2'),
    ({'lod': float('inf')}, 'points.0.lod'),
    ({'file': '/etc/passwd'}, 'points.0.file: Extra inputs are not permitted'),
])
def test_points_that_are_refused(change, words):
    parse(ImagesRequest, json.dumps({'points': [POINT]}).encode())
    with pytest.raises(UserError) as error:
        parse(ImagesRequest, json.dumps({'points': [{**POINT, **change}]}).encode())
    assert words in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('body', [b'', b'{', b'\xff', b'[]', b'{"points": []}', b'[' * 100_000,
                                  b'{"points": %s}' % json.dumps([POINT] * 65).encode()])
def test_bodies_that_are_refused(body):
    with pytest.raises(UserError):
        parse(ImagesRequest, body)


@pytest.mark.parametrize('name', ['', ' ', 'a\nb', 'x' * 81, 3])
def test_names_that_are_refused(name):
    with pytest.raises(UserError, match='kept.0.name'):
        parse(TrayRequest, json.dumps({'kept': [{**POINT, 'name': name}], 'revision': 0}).encode())


def test_slerp_keeps_to_the_sphere():
    a, b = np.random.RandomState(1).randn(2, 16)
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    total = np.arccos(a @ b / lengths[0] / lengths[1])
    for t in (0.0, 0.25, 0.5, 1.0):
        c = slerp(a, b, t)
        assert np.linalg.norm(c) == pytest.approx((1 - t) * lengths[0] + t * lengths[1])
        assert np.arccos(np.clip(a @ c / lengths[0] / np.linalg.norm(c), -1, 1)) == pytest.approx(t * total, abs=1e-6)
    np.testing.assert_allclose(slerp(a, -a, 0.25), a / 2)
    np.testing.assert_allclose(slerp(a, 2 * a, 0.5), 1.5 * a)
    np.testing.assert_allclose(slerp(0 * a, b, 0.5), b / 2)


def test_a_way_goes_round_or_ends_at_the_last_point():
    a = Point(**POINT)
    b = Point(latents=[0.0, 3.0], label=[1.0, 0.0], psi=1.0, lod=0.5)
    middle = blend(a, b, 0.5)
    np.testing.assert_allclose(middle.latents, np.sqrt(2) * np.ones(2))
    assert (middle.label, middle.psi, middle.lod) == ([0.5, 0.5], 0.75, 1.0)
    assert way([a, b], 2, loop=False) == [a, middle, b]
    assert way([a, b], 2, loop=True) == [a, middle, b, blend(b, a, 0.5)]

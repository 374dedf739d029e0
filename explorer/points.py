"""Requests of the page: points of the latent space, their validation, and interpolation between them."""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.errors import UserError, one_line

MAX_PSI = 2.0
Model = TypeVar('Model', bound=BaseModel)


def _printable(name: str) -> str:
    if not name.isprintable() or not name.strip():
        raise ValueError('a name must have printable characters only, and must not be blank')
    return name


Number = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=80), AfterValidator(_printable)]


class Request(BaseModel):
    """Base class of all requests: strict types, and unknown keys are errors."""

    model_config = ConfigDict(extra='forbid', frozen=True, strict=True)


class Point(Request):
    """One image: the inputs of a generator, with truncation and level of detail.

    Attributes
    ----------
    latents : list of float
        Input latents, latent_size numbers.
    label : list of float
        Share of each class; [] for an unconditional network.
    psi : float
        Truncation: factor of the normalized latents. 0 is the mean image, 1 has no effect.
    lod : float
        0 is full resolution, k is 1 / 2^k of it, fractions blend two levels.
    """

    latents: list[Number] = Field(min_length=1, max_length=1 << 16)
    label: list[Share] = Field(default=[], max_length=1 << 16)
    psi: float = Field(default=1.0, ge=0, le=MAX_PSI, allow_inf_nan=False)
    lod: float = Field(default=0.0, ge=0, le=16, allow_inf_nan=False)


class Kept(Point):
    """An image that the user has kept."""

    name: Name


class ImagesRequest(Request):
    """A grid of images: those of `points`, or, with `between`, interpolated images between two points."""

    points: list[Point] = Field(min_length=1, max_length=64)
    columns: int = Field(default=1, ge=1, le=64)
    between: list[Share] | None = Field(default=None, min_length=1, max_length=64)


class ArraysRequest(Request):
    """The latents or the labels of some points, as one array."""

    points: list[Point] = Field(min_length=1, max_length=500)
    array: Literal['latents', 'labels']


class TrayRequest(Request):
    """The new content of the tray. `revision` is the revision of the tray that the browser has changed."""

    kept: list[Kept] = Field(max_length=500)
    revision: int = Field(ge=0)


class VideoRequest(Request):
    """A video that interpolates between points, with `seconds` from each point to the next."""

    points: list[Point] = Field(min_length=2, max_length=500)
    seconds: float = Field(ge=0.05, le=600, allow_inf_nan=False)
    fps: int = Field(default=30, ge=1, le=60)
    loop: bool = True
    format: Literal['mp4', 'gif'] = 'mp4'


def parse(model: type[Model], body: bytes) -> Model:
    """Parse and validate a request in JSON.

    Raises
    ------
    UserError
        The request is invalid; the message names the first wrong entry.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = '.'.join(str(part) for part in first['loc'])
        raise UserError(one_line(f'{place}: {first["msg"]}' if place else first['msg'])) from error


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Spherical linear interpolation of latents (latent_size,): angle and length change linearly with `t`.

    Linear interpolation would pass through latents much shorter than normal latents are. It is the fallback for
    opposite latents, where the path on the sphere is not unique.
    """
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    straight = (1 - t) * a + t * b
    if not all(lengths):
        return straight
    angle = np.arccos(np.clip(np.dot(a / lengths[0], b / lengths[1]), -1, 1))
    if np.sin(angle) < 1e-6:
        return straight
    direction = (np.sin((1 - t) * angle) * a / lengths[0] + np.sin(t * angle) * b / lengths[1]) / np.sin(angle)
    return direction * ((1 - t) * lengths[0] + t * lengths[1])


def blend(a: Point, b: Point, t: float) -> Point:
    """Interpolate between two points; `t` is 0 at `a` and 1 at `b`."""
    def evenly(x, y):
        return (1 - t) * np.asarray(x) + t * np.asarray(y)

    return Point(latents=slerp(np.asarray(a.latents), np.asarray(b.latents), t).tolist(),
                 label=evenly(a.label, b.label).tolist(), psi=float(evenly(a.psi, b.psi)),
                 lod=float(evenly(a.lod, b.lod)))


def way(points: Sequence[Point], frames_per_step: int, loop: bool) -> list[Point]:
    """The points of all frames of a video through `points`.

    A loop returns to the first point, whose frame is not repeated; otherwise the last frame is the last point.
    """
    pairs = list(zip(points, [*points[1:], points[0]], strict=True))
    frames = [blend(a, b, frame / frames_per_step) for a, b in (pairs if loop else pairs[:-1])
              for frame in range(frames_per_step)]
    return frames if loop else [*frames, points[-1]]

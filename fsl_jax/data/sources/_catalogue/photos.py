"""Photographs a drawn article: pose, background, shadow, light, occlusion, blur and noise."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from fsl_jax.data.sources._catalogue.drawing import Plane, cloud
from fsl_jax.data.sources._catalogue.vocabulary import COLOURS

Scene = Float[np.ndarray, "s s 3"]
Pose = Float[np.ndarray, "3 3"]
_SKIN = ((238, 200, 172), (206, 156, 120), (146, 100, 70), (92, 62, 46))


def _pose(
    rng: np.random.Generator,
    *,
    turn: float,
    scale: tuple[float, float],
    shift: float,
    tilt: float,
    flip: float,
) -> Pose:
    """Draws a homography from the article's plane to the photo's, both centred on 0 with side 1.

    Args:
      rng: Source of chance.
      turn: Largest rotation, in degrees.
      scale: Range of the size.
      shift: Largest displacement, in sides.
      tilt: Largest shear, foreshortening and perspective.
      flip: Chance that it is seen from the other side.

    Returns:
      3 x 3, in homogeneous coordinates.
    """
    angle, shear, squeeze = (
        np.radians(rng.uniform(-turn, turn)),
        rng.uniform(-tilt, tilt),
        1 - rng.uniform(0, tilt),
    )
    size, side = rng.uniform(*scale), -1 if rng.random() < flip else 1
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pose = np.eye(3)
    pose[:2, :2] = size * rotate @ np.array([[squeeze * side, shear], [0, 1]])
    pose[:2, 2] = rng.uniform(-shift, shift, 2)
    pose[2, :2] = rng.uniform(-tilt, tilt, 2)
    return pose


def _stand(drawn: Image.Image, pose: Pose, size: int) -> Float[np.ndarray, "s s 4"]:
    """Moves the drawn article into the photo; RGBA in [0, 1]."""
    side = size * 2
    to_photo = np.array([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1]])
    to_plane = np.array([[drawn.width, 0, drawn.width / 2], [0, drawn.width, drawn.width / 2], [0, 0, 1]])
    back = to_plane @ np.linalg.inv(to_photo @ pose)
    data = (back / back[2, 2]).ravel()[:8].tolist()
    moved = drawn.transform((side, side), Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR)
    return np.asarray(moved.resize((size, size), Image.Resampling.BOX), np.float32) / 255


def _tone(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """Picks any colour, greyed as walls and floors are, so that the article is what stands out."""
    named = np.array(list(COLOURS.values()), np.float32)[rng.integers(len(COLOURS))] / 255
    grey = rng.uniform(0.5, 0.92)
    mix = rng.uniform(0.05, 0.4)
    return (named * mix + grey * (1 - mix)).astype(np.float32)


def _ramp(size: int, angle: float) -> Plane:
    """Rises from -1 to 1 along a direction."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    return np.float32(np.cos(angle)) * line[None, :] + np.float32(np.sin(angle)) * line[:, None]


def _blend(share: Plane, first: Float[np.ndarray, "3"], second: Float[np.ndarray, "3"]) -> Scene:
    return first + share[..., None] * (second - first)


def _flat(rng: np.random.Generator, size: int) -> Scene:
    tone = _tone(rng)
    return _blend(
        _ramp(size, rng.uniform(0, 6.28)) * 0.5 + 0.5, tone, tone * np.float32(rng.uniform(0.6, 0.95))
    )


def _room(rng: np.random.Generator, size: int) -> Scene:
    """A wall and a floor."""
    edge = _ramp(size, np.pi / 2 + rng.uniform(-0.25, 0.25)) > rng.uniform(-0.1, 0.6)
    return _blend(edge.astype(np.float32), _tone(rng), _tone(rng)) * (
        0.85 + 0.3 * cloud(rng, size, 5)[..., None]
    )


def _planks(rng: np.random.Generator, size: int) -> Scene:
    """Boards or tiles with dark joints."""
    angle, count = rng.uniform(-0.3, 0.3) + np.pi / 2 * rng.integers(2), rng.uniform(2, 5)
    along, across = _ramp(size, angle) * count / 2, _ramp(size, angle + np.pi / 2) * count / 2
    joint = across % 1 < 0.08
    if rng.random() < 0.5:
        joint |= (along + 0.5 * (np.floor(across) % 2)) % 1 < 0.06
    shade = 0.8 + 0.25 * np.sin(np.floor(across) * 2.4 + rng.uniform(0, 6)) * 0.5 + 0.2 * cloud(rng, size, 12)
    return _tone(rng) * np.where(joint, 0.5, shade).astype(np.float32)[..., None]


def _fabric(rng: np.random.Generator, size: int) -> Scene:
    """Grass, carpet or crumpled cloth."""
    return _blend(
        0.6 * cloud(rng, size, int(rng.integers(3, 7))) + 0.4 * cloud(rng, size, 20), _tone(rng), _tone(rng)
    )


def _clutter(rng: np.random.Generator, size: int) -> Scene:
    """A shelf of other things, out of focus."""
    scene = Image.fromarray((np.clip(_room(rng, size), 0, 1) * 255).astype(np.uint8))
    pen = ImageDraw.Draw(scene)
    for _ in range(int(rng.integers(5, 11))):
        x, y = rng.uniform(-0.1, 1.0, 2) * size
        wide, high = rng.uniform(0.08, 0.4, 2) * size
        fill = tuple(int(value) for value in _tone(rng) * 255)
        shape = (pen.rectangle, pen.ellipse)[int(rng.integers(2))]
        shape([x, y, x + wide, y + high], fill=fill)
    blurred = scene.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.01, 0.03)))
    return np.asarray(blurred, np.float32) / 255


_SCENES = (_flat, _room, _planks, _fabric, _clutter)


def _studio(rng: np.random.Generator, size: int) -> Scene:
    """A white sweep, a little darker below."""
    fall = _ramp(size, np.pi / 2) * 0.5 + 0.5
    return np.repeat((rng.uniform(0.95, 1.0) - rng.uniform(0.0, 0.07) * fall)[..., None], 3, axis=2).astype(
        np.float32
    )


def _cast(alpha: Plane, drop: tuple[float, float]) -> Plane:
    """Draws the soft shadow of a shape, moved right and down by shares of the side."""
    size = len(alpha)
    soft = Image.fromarray((alpha * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(size * 0.04))
    shift = (1, 0, -drop[0] * size, 0, 1, -drop[1] * size)
    return np.asarray(soft.transform((size, size), Image.Transform.AFFINE, shift), np.float32) / 255


def _compose(
    article: Float[np.ndarray, "s s 4"], scene: Scene, shadow: float, drop: tuple[float, float]
) -> Scene:
    """Lays the article and its cast shadow on the scene."""
    alpha = article[..., 3]
    cast = _cast(alpha, drop)
    under = scene * (1 - shadow * cast)[..., None]
    return under + alpha[..., None] * (article[..., :3] - under)


def _occlude(rng: np.random.Generator, photo: Scene) -> Scene:
    """Puts fingers, or the edge of some other thing, in front."""
    size = len(photo)
    side, middle = size * 2, np.array([size, size])
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    angle = rng.uniform(0, 2 * np.pi)
    inward = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-inward[1], inward[0]])
    if rng.random() < 0.5:
        tone = np.array(_SKIN[rng.integers(len(_SKIN))], np.float32) / 255
        reach, thick = rng.uniform(0.16, 0.3), rng.uniform(0.09, 0.12)
        for i in range(int(rng.integers(1, 4))):
            tip = middle + side * (inward * (reach + 0.03 * abs(i - 1)) + across * thick * (i - 1) * 0.95)
            pen.line([tuple(tip), tuple(tip + inward * side)], fill=255, width=round(side * thick))
            pen.ellipse([*(tip - side * thick / 2), *(tip + side * thick / 2)], fill=255)
    else:
        tone = _tone(rng)
        near, lean = rng.uniform(0.16, 0.34), rng.uniform(-0.5, 0.5)
        corners = [(near + lean * 0.3, -1), (near - lean * 0.3, 1), (2, 1), (2, -1)]
        pen.polygon([tuple(middle + side * (inward * a + across * b)) for a, b in corners], fill=255)
    cover = np.asarray(mask.resize((size, size), Image.Resampling.BOX), np.float32)[..., None] / 255
    return photo + cover * (tone * (0.85 + 0.2 * cloud(rng, size, 4)[..., None]) - photo)


def _light(rng: np.random.Generator, photo: Scene, strength: float) -> Scene:
    """Changes brightness, colour cast and gradient; at times a hard shadow falls across."""
    size = len(photo)
    gain = np.exp(rng.normal(0, 0.09 * strength, 3) + rng.uniform(-0.38, 0.2) * strength).astype(np.float32)
    slope = 1 + rng.uniform(0, 0.3) * strength * _ramp(size, rng.uniform(0, 6.28))
    if rng.random() < 0.25 * strength - 0.1:
        edge = np.clip((_ramp(size, rng.uniform(0, 6.28)) - rng.uniform(-0.5, 0.5)) * 6, 0, 1)
        slope = slope * (1 - rng.uniform(0.2, 0.45) * edge)
    return photo * gain * slope[..., None].astype(np.float32)


def _develop(rng: np.random.Generator, photo: Scene, blur: float, noise: float) -> UInt8[np.ndarray, "s s 3"]:
    size = len(photo)
    noisy = photo + rng.standard_normal((size, size, 1), np.float32) * np.float32(noise)
    image = Image.fromarray((np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur * size)) if blur > 0.004 else image)


def shop_photo(rng: np.random.Generator, drawn: Image.Image, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Photographs an article for the shop: white ground, straight, even light.

    Args:
      rng: Source of chance.
      drawn: RGBA picture of the article.
      size: Side of the photo, in pixels.

    Returns:
      The photo.
    """
    pose = _pose(rng, turn=4, scale=(0.88, 0.98), shift=0.02, tilt=0.05, flip=0.15)
    photo = _compose(_stand(drawn, pose, size), _studio(rng, size), 0.3, (0.015, 0.03))
    return _develop(rng, _light(rng, photo, 0.15), 0.0, 0.004)


def customer_photo(rng: np.random.Generator, drawn: Image.Image, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Photographs an article as a customer does: any pose, place and light, at times with something in front.

    Args:
      rng: Source of chance.
      drawn: RGBA picture of the article.
      size: Side of the photo, in pixels.

    Returns:
      The photo.
    """
    pose = _pose(rng, turn=18, scale=(0.76, 1.08), shift=0.05, tilt=0.17, flip=0.2)
    scene = _SCENES[int(rng.integers(len(_SCENES)))](rng, size)
    drop = tuple(rng.uniform(-0.05, 0.07, 2).tolist())
    photo = _compose(_stand(drawn, pose, size), scene, rng.uniform(0.15, 0.5), drop)
    photo = _occlude(rng, photo) if rng.random() < 0.35 else photo
    return _develop(rng, _light(rng, photo, 1.0), rng.uniform(0, 0.02), rng.uniform(0.005, 0.04))

"""Kind "objects": one named thing, cut out of an emoji set or a photograph, on a varied ground."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance

from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import SIZE, Rng
from emova_data.nano.pictures.drawn import Ask, Drawn
from emova_data.nano.pictures.library import Library
from emova_data.nano.pictures.regions import Region, opaque_box

UNSEEN_SHARE = 0.25  # of the test pictures show a source picture that training never used


def _vary(rng: Rng, image: Image.Image) -> Image.Image:
    """Mirror, recolour a little, squeeze and turn a cut-out."""
    if canvas.chance(rng, 0.5):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = canvas.uniform(rng, 0.52, 0.86) * SIZE
    factor = side / max(image.size)
    squeeze = canvas.uniform(rng, 0.9, 1.1)
    size = (max(8, int(image.width * factor * squeeze)), max(8, int(image.height * factor / squeeze)))
    alpha = image.getchannel("A")
    rgb = ImageEnhance.Color(image.convert("RGB")).enhance(canvas.uniform(rng, 0.65, 1.25))
    rgb = ImageEnhance.Brightness(rgb).enhance(canvas.uniform(rng, 0.8, 1.15))
    rgb.putalpha(alpha)
    image = rgb.resize(size, Image.Resampling.BICUBIC)
    angle = float(np.clip(rng.normal(0, 9), -24, 24))
    return image.rotate(angle, Image.Resampling.BICUBIC, expand=True)


def draw(rng: Rng, split: str, library: Library) -> Drawn:
    """One thing; in the test split a quarter of the pictures use the source picture that training never saw."""
    name = str(rng.choice(list(library)))
    seen = [c for c in library[name] if not c.held_out]
    unseen = [c for c in library[name] if c.held_out]
    pool = unseen if split == "test" and unseen and canvas.chance(rng, UNSEEN_SHARE) else seen
    cutout = pool[int(rng.integers(len(pool)))]
    thing = _vary(rng, cutout.image)
    # A dark thing stands before a light ground and a pale one before a darker.
    pixels = np.asarray(cutout.image, np.float32)
    mean = float((pixels[..., :3].mean(-1) * pixels[..., 3]).sum() / max(1.0, pixels[..., 3].sum()))
    ground = canvas.background(rng, light=True if mean < 90 else False if mean > 205 else None)
    room_x, room_y = max(0, SIZE - thing.width), max(0, SIZE - thing.height)
    at = (
        int(room_x * canvas.uniform(rng, 0.1, 0.9)) if room_x else (SIZE - thing.width) // 2,
        int(room_y * canvas.uniform(rng, 0.1, 0.9)) if room_y else (SIZE - thing.height) // 2,
    )
    canvas.paste(rng, ground, thing, at, shadow=canvas.uniform(rng, 0.15, 0.5))
    mood = v.object_mood(name)
    other = str(rng.choice([n for n in library if n != name]))
    asks = (
        Ask("name", name, "", mood, 3.0),
        Ask("name", name, "", mood, 3.0),
        Ask("name", name, "", mood, 3.0),
        Ask("is_it", f"yes|{name}", v.with_article(name), mood, 1.0),
        Ask("is_it", f"no|{name}", v.with_article(other), mood, 1.0),
        Ask("kind", v.KIND_NAMES["objects"], "", weight=0.3),
    )
    facts = {"name": name, "source": cutout.source, "unseen_source": cutout.held_out}
    caption = f"A picture of one thing: this is {v.with_article(name)}."
    return Drawn(canvas.camera(rng, ground), facts, caption, asks, (Region(name, opaque_box(thing, at)),))

"""Pictures and sounds as transformers' users hand them over: objects, arrays, paths, bytes, data and web addresses.

Shape letters: T samples, H and W pixels.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import Image
from torch import Tensor

from emova.core.errors import InputError
from emova.core.io import Source, shown
from emova.speech.audio import check_samples, load_audio
from emova.vision.image import load_image

KEYS = ("url", "path", "base64")
"""Of a part, beside the one that is called as its type."""
_MAX_BYTES = 64 << 20
_SECONDS = 20.0


def find(part: Mapping[str, object], kind: str) -> object:
    """What a part of type ``kind`` (image, audio) holds, its text forms turned into a path or bytes; None: nothing.

    Raises:
        InputError: no base64, no such address.
    """
    for key in (kind, *KEYS):
        value = part.get(key)
        if value is not None:
            return _decoded(value, kind) if key == "base64" else resolve(value, kind)
    return None


def resolve(source: object, kind: str) -> object:
    """An address as a path or bytes, a record of the ``datasets`` library as what it holds, all else as it is.

    Raises:
        InputError: the address cannot be read.
    """
    if isinstance(source, Mapping):
        held = next((source[key] for key in ("bytes", "array", "path") if source.get(key) is not None), None)
        if held is None:
            raise InputError(f"{kind} part: a record without 'bytes', 'array' or 'path'; give one of them")
        return resolve(held, kind)
    if not isinstance(source, str):
        return source
    scheme = source[:16].partition(":")[0].lower()
    if scheme in ("http", "https"):
        return _fetched(source, kind)
    if scheme == "file":
        return url2pathname(urlsplit(source).path)
    if scheme != "data":
        return source
    head, comma, body = source.partition(",")
    if not comma:
        raise InputError(f"{kind} part: the data address has no comma; give data:TYPE;base64,…")
    return _decoded(body, kind) if head.lower().endswith(";base64") else unquote_to_bytes(body)


def picture(source: object) -> Image.Image:
    """An RGB image of a picture in any of the forms above; arrays are [H, W], [H, W, C] or [C, H, W] of 0..255 or 0..1.

    Raises:
        InputError: it cannot be read, or is no picture.
    """
    source = resolve(source, "image")
    if isinstance(source, np.ndarray | Tensor):
        return load_image(_from_array(source))
    return load_image(source)  # type: ignore[arg-type]  # it says so where it is none of its kinds


def sound(source: object, sample_rate: int, given_rate: int | None = None) -> np.ndarray:
    """Samples [T] at ``sample_rate`` Hz of a sound in any of the forms above.

    Args:
        given_rate: of an array, in Hz; ``sample_rate`` if None.

    Raises:
        InputError: it cannot be read, or is no sound.
    """
    if isinstance(source, Mapping) and source.get("sampling_rate"):
        given_rate = int(source["sampling_rate"])
    source = resolve(source, "audio")
    if isinstance(source, list | tuple):
        source = np.asarray(source)
    if not isinstance(source, np.ndarray | Tensor):
        return load_audio(source, sample_rate)  # type: ignore[arg-type]  # it says so where it is none of its kinds
    if source.ndim == 2 and 1 in source.shape:
        source = source.reshape(-1)
    samples = check_samples(source, given_rate or sample_rate)
    if given_rate in (None, sample_rate):
        return samples
    import soxr

    return soxr.resample(samples, given_rate, sample_rate).clip(-1.0, 1.0)


def flat(sources: object) -> list[object]:
    """One source, a list, or lists in a list, as one list."""
    if isinstance(sources, list | tuple):
        return [each for source in sources for each in flat(source)]
    return [sources]


def _decoded(text: object, kind: str) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InputError(f"{kind} part: its base64 cannot be decoded; encode the file again") from None


def _fetched(address: str, kind: str) -> Source:
    import httpx  # as transformers fetches

    try:
        with httpx.stream("GET", address, timeout=_SECONDS, follow_redirects=True) as answer:
            answer.raise_for_status()
            data = bytearray()
            for block in answer.iter_bytes():
                data += block
                if len(data) > _MAX_BYTES:
                    raise InputError(f"{shown(address)}: larger than {_MAX_BYTES >> 20} MiB; give a smaller {kind}")
    except httpx.HTTPStatusError as error:
        raise InputError(f"{shown(address)}: the server answers {error.response.status_code}; check it") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        raise InputError(f"{shown(address)}: cannot be fetched; check the connection, or give the file") from None
    return bytes(data)


def _from_array(source: np.ndarray | Tensor) -> Image.Image:
    array = source.detach().cpu().float().numpy() if isinstance(source, Tensor) else source
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.dtype.kind not in "uif":
        raise InputError(f"the picture: an array of shape {list(array.shape)}; give [H, W, 3] or [3, H, W]")
    values = array.astype(np.float64)
    if not np.isfinite(values).all() or values.size == 0 or values.min() < 0 or values.max() > 255:
        raise InputError("the picture: an array whose values are not within 0 to 255, or 0 to 1; scale it")
    if array.dtype.kind == "f" and values.max() <= 1:
        values = values * 255
    return Image.fromarray(values.round().astype(np.uint8))

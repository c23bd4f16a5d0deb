"""The sound that a page's player fetches.

Shape letters: T samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from emova_app.pcm import to_pcm


@dataclass
class ReplySound:
    """The sound of one reply.

    Attributes:
        generation: counts the replies of a page.
        chunks: 16-bit little-endian PCM at ``rate`` Hz.
        ended: no more will come.
    """

    generation: int = 0
    chunks: list[bytes] = field(default_factory=list)
    rate: int = 24_000
    ended: bool = False


class PlaybackBuffer:
    """What the page's player shall play: the sound of the newest reply.

    The player asks for what it does not have yet; a new generation tells it that what it holds is out of date. The
    sound is replaced whole, so a reader in another thread never sees parts of two replies.
    """

    def __init__(self) -> None:
        self.sound = ReplySound(ended=True)

    def begin(self) -> int:
        """A new reply; its generation."""
        self.sound = ReplySound(self.sound.generation + 1)
        return self.sound.generation

    def add(self, generation: int, samples: np.ndarray, rate: int) -> None:
        """Samples ``[T]`` of a reply; those of an earlier or a dropped one are not wanted."""
        sound = self.sound
        if generation == sound.generation and not sound.ended:
            sound.rate = rate
            sound.chunks.append(to_pcm(samples))

    def end(self, generation: int) -> None:
        """The reply is complete."""
        if generation == self.sound.generation:
            self.sound.ended = True

    def drop(self) -> None:
        """Nothing more of this reply shall sound."""
        self.sound = ReplySound(self.sound.generation, ended=True)

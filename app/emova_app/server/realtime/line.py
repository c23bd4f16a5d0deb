"""What the rooms of one realtime connection share."""

from __future__ import annotations

from emova.session.session import Session
from emova_app.server.http.front import new_id
from emova_app.server.realtime.sending import Sender
from emova_app.server.realtime.settings import Settings
from emova_app.server.service import Service


class Line:
    """The server's side of one talk.

    Attributes:
        session: listens and answers.
        settings: what the client has chosen.
        conversation_id: as the client knows it.
        rate: of the sound that the session hears, Hz.
        max_samples: most that one question may have.
    """

    def __init__(self, service: Service, session: Session, sender: Sender) -> None:
        self.service, self.session, self.sender = service, session, sender
        styles = service.assistant.styles
        self.settings = Settings(styles, styles.voices[0])
        self.conversation_id = new_id("conv")
        self.rate: int = service.assistant.speech_tokenizer.sample_rate
        self.max_samples = int(service.assistant.config.audio_limits.max_seconds * self.rate)

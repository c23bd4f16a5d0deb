"""An OpenAI-compatible server: chat with voice, speech, transcription, and realtime talk."""

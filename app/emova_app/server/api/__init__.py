"""The routes for chat, speech and transcription."""

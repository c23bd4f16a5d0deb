"""``WS /v1/realtime``: talk with voice activity detection and interruption."""

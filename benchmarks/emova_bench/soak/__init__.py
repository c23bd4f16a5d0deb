"""Clients by the dozen for five minutes: what of the server they break."""

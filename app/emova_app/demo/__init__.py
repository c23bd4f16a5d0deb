"""The demo in a browser: talk about a picture, hear the answer in any of 24 styles or in your own voice."""

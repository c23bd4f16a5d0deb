"""The demo in a browser: talk about a picture, hear the answer in any style or in your own voice."""

"""What people and programs meet: the demo in a browser, and the server."""

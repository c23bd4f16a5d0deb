"""What visitors upload: who may, how much, and how it is opened."""

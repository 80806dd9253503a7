"""Recordings: WAV files, and the front-ends that turn sound into what a model takes."""

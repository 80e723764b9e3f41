"""The commands of `python -m course`: one a file, whose function of that name runs it and returns the exit code."""

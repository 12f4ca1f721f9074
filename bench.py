"""`python bench.py --help`."""

from bench.cli import app

if __name__ == "__main__":
    app()

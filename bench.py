"""`python bench.py --help`."""

from bench.cli.app import app

if __name__ == "__main__":
    app()

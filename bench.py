"""`python bench.py --help`."""

from bench.cli.start import main

if __name__ == "__main__":
    main()

"""Measuring and judging: what is asked, run, predicted, tabled, drawn and reported."""

"""What is asked and what is kept: cases, experiments, papers, columns, records, errors."""

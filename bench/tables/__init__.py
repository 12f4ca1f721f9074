"""Records to statements: frames, summaries, comparisons, the gate, advice."""

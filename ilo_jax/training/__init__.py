"""Learning, of language models and of anything else: steps, runs, what is frozen, what is kept."""

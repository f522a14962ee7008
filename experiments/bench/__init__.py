"""How fast we are, beside the best that others have: each script times both in one run."""

"""What the benchmarks time: ours, and what others do in its place."""

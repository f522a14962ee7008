"""The kernel: the nearest other points of every point, proved or said to be uncertain."""

"""Aligned multi-parallel text: languages, readers, the sample corpus, packing into rows."""

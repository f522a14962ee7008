"""From a model and a corpus to what any site shows of each sentence, computed and stored."""

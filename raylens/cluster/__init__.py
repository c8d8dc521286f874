"""Ray: from a Run to workers, trials and searches."""

"""Questions answered by a checkpoint at several levels of error, by either engine."""

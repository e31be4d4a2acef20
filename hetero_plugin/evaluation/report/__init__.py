"""The page that compares what was trained and evaluated."""

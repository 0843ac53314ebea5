"""Training data that the package draws itself: emoji on plain backgrounds, ray-traced scenes, circles."""

"""A run's folder: its layout, its Arrow data set, and reading it back."""

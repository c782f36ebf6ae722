"""What is asked of a run once it has rows: whether it holds, and what else its images do. Knows no Ray."""

"""The pages: one HTML file that holds its data, and the JavaScript beside it that reads that data."""

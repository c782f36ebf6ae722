"""Pictures: contact sheets, charts and maps drawn with matplotlib and Pillow."""

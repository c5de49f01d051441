"""`prefdata report`: one HTML file."""

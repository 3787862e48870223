"""The matrix as a page that needs no server."""

"""A page in the browser on which a gallery is searched."""

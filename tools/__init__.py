"""What makes the documentation: pages written from code, and hooks of MkDocs."""

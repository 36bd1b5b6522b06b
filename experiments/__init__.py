"""Command-line programs: each a thin main over the package."""

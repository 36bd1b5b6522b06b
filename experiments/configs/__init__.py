"""Config files: each has `get_config(argument) -> Config`."""

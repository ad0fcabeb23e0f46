"""From degraded pixels and files to restored ones."""

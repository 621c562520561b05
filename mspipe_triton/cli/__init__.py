"""Command line: commands, flags, screens, and the doctor."""

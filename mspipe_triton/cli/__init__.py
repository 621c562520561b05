"""The command line: commands, flags, screens, and the doctor."""

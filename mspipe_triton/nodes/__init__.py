"""Node state: memory and mailbox tables, how their rows are read, written and saved."""

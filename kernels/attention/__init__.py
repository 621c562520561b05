"""Attention over temporal neighbours and over mails, and the attention layer around it."""

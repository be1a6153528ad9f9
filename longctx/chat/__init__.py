"""Conversations as token ids, such that no content can forge a turn. Knows no model and no HTTP."""

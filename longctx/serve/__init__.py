"""The OpenAI-compatible server: HTTP in, an engine's tokens out."""

"""JSON schemas as grammars over a model's tokens, compiled, or proven in other processes first."""

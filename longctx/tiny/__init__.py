"""How a tiny Qwen2 is trained to find needles: tokenizer, samples, training loop.

Experimental: the recipe does not yet learn to copy, so no weights come with the package.
"""

"""YaRN and Dual Chunk Attention: positions, frequencies, kernels, and the drop-in."""

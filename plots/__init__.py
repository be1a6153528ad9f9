"""The pictures: they read run folders, never a model.

scene, curve    what a map and a curve consist of, in data units, computed once
painters        heatmap, perplexity, bars (matplotlib), terminal, live (text); the page's SVG is in
                longctx.report
"""

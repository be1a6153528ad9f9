"""`longctx ask`: documents first, then a question; an answer, and where its words stand."""

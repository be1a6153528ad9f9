"""Documents that stay: their text, and what a model computed of it, ready for questions.

    with DocumentStore(directory, budget) as store:
        documents = Documents(engine, renderer, facts, store)
        told = documents.add("report.txt", text)

A document stands at the beginning of a prompt, in one system turn, so that every question finds its
keys and values computed. What is stored is used where all that it depends on is the same, and
computed again where anything differs or is damaged.
"""

"""The instrument: it verifies optimizers, times them, races them, and writes what it found to ``results/``.

Data flows one way: plan, verify, measure, store (`journal`), derive (`tables`), show (`charts`, `page`).
"""

"""The statistics of the race: from its table of runs to scores with intervals, ranks, tests and profiles.

A run's result is the number of gradients after which it first came down to each of a fixed list of targets (`hits`).
Everything else is a function of those numbers: `runs` puts them into arrays, `tracks` chooses the learning rates on a
seed that is never scored, `measures` turns runs into numbers, `resample` says how sure they are, `derive` makes tables.
"""

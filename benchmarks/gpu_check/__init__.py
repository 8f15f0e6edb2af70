"""What holds on one CUDA card, in ten minutes: make gpu-check, described in docs/gpu.md.

results   a line of the table, and the two files that hold all of them
setting   what a check is given: device, sizes, a folder
runner    a check in a process of its own that has so many seconds
checks    which there are, in which order, and how long each may take
models    policies with random weights, triplets of given lengths, gradients to compare

The rest is one module a group of checks. A check is a generator of outcomes. Nothing above imports
torch but `models`: on a card each check begins in a process that knows nothing of CUDA yet.
"""

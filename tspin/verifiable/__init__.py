"""The built-in task for pretrained models: English instructions whose answers a program checks.

`task` makes prompts with right answers and judges any answer from the two texts alone; `questions`
and `constraints` are the families of instructions, `wordings` how they are said and read,
`texts` what they speak of. Importing this package does not import torch.
"""

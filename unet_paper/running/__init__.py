"""What Ignite and MONAI need around the paper: settings, steps and handlers, checkpoints, log books, reports.

What happens while a config runs belongs here: training, evaluation and prediction on one machine. It may import the
paper's nouns, ``data`` and ``metrics``; of this package only ``settings`` reads YAML.
"""

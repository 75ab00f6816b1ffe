"""From files to cases: images and masks as people have them, annotations as instances, and phantoms.

What reads an image, pairs it with its mask, turns an annotation into cells or invents both belongs here. It may import
the paper's nouns; it knows nothing of metrics, of training or of configs.
"""

"""Training of the watermark networks. Needs torch: ``pip install medprov-watermark[train]``."""

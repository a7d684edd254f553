"""Ablation studies: arms that differ in a few settings, over seeds, with paired differences and intervals."""

"""Scores, from predictions to percentages.

In reading order: `evaluate` (a trained model on the validation frames), `segmentation` (pixels
counted, on the device), `confusion` (scores from the counts), `detection` (scores of boxes),
`panels` (a few frames kept as pictures).
"""

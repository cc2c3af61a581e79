"""Scores, from predictions to percentages.

In reading order: `evaluate` (a trained model on the validation frames), `segmentation` (pixels
counted, on the device), `confusion` (scores from the counts), `detection` (scores of boxes), `ap`
(the same, of any resample of the images), `panels` (a few frames kept as pictures).
"""

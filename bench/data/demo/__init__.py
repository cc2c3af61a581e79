"""The demo data set: streets drawn in BDD100K's layout and formats, for people without BDD100K.

In reading order: `draw` (which frames there are, and their files), `scene` (the nouns), `layout`
(what stands where), `paint` (the picture and its labels), made of `canvas` (the picture and its
label map under one brush), `ground` (sky and road), `things`, `vehicles` and `brush` (how things
look).
"""

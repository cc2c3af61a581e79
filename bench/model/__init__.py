"""The networks, in parts that are passed in ready built.

In reading order: `multitask` (trunk, neck and heads in parts that learn or stay), `build` (from a
protocol's values to modules), `fpn` (the neck), `lv_adapter` (what may stand behind it, with CLIP's
text encoder); `maskformer` and `maskformer_loss` (the head of a label map), with `mask_sums` (over
its pixels); `sparse_rcnn` and `sparse_rcnn_loss` (the head of the boxes), with `pool` (RoIAlign
over the pyramid); the convolutional heads `semantic_fpn`, `semantic_fpn_loss`, `faster_rcnn` and
`faster_rcnn_loss`; and what the heads share: `layers`, `matching`, `focal`; `sync_norm` (BatchNorm
over several ranks).
"""

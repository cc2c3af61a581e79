"""The networks, in parts that are passed in ready built.

In reading order: `multitask` (trunk, neck and heads in parts that learn or stay), `build` (from a
protocol's values to modules), `fpn` (the neck); `maskformer` and `maskformer_loss` (the head of a
label map); `sparse_rcnn` and `sparse_rcnn_loss` (the head of the boxes), with `pool` (RoIAlign over
the pyramid); and what the heads share: `layers`, `matching`, `focal`.
"""

"""Which pretrained weights exist, and how each file becomes the ResNet-50.

In reading order:

- `catalog`    the rows: one published file each, and what it does not say about itself
- `manifests`  the names, dtypes and shapes in each of those files
- `resnet50`   the network in its variants: plain, CLIP's, with SAME padding
- `read`       opening a file safely
- `dialects`   how each family of code names the network's tensors
- `layouts`    what else each file may hold; to canonical names and back
- `canonical`  the one form that everything is stored in
- `report`     what was loaded, and the scale of what it puts out
- `load`       from a name or a file to the network
- `stand_in`   random weights in a published layout, for machines without the file
- `store`      the folder of files, their identity and their conversion

`catalog`, `manifests` and `store` can be imported without torch.
"""

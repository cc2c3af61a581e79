"""Which pretrained weights exist, and how each file becomes the ResNet-50.

In reading order:

- `catalog`     the rows: one published file each, and what it does not say about itself
- `manifests`   the names, dtypes and shapes in each of those files
- `resnet50`    the network in its variants: plain, CLIP's, with SAME padding
- `files`       what a path means, and the hash of its bytes
- `fetch`       downloads that break off and go on
- `read`        opening a file safely, whatever its container
- `containers`  torch's, TorchScript's, safetensors', pickles' and TensorFlow's
- `pickles`     a machine that reads pickles and can run nothing
- `rebuild`     the tensors and arrays that pickles describe
- `tf_bundle`   TensorFlow's checkpoints without TensorFlow
- `dialects`    how each family of code names the network's tensors
- `layouts`     what else each code base saves, and what that tells
- `detect`      finding the network in a file; to canonical names and back
- `values`      what no trained network's values are
- `canonical`   the one form that everything is stored in
- `report`      what was loaded, and the scale of what it puts out
- `load`        from a name or a file to the network
- `clip_parts`  what CLIP's files hold beside the trunk, each part in a canonical file of its own
- `clip_text`   CLIP's text encoder
- `clip_pool`   CLIP's attention pool
- `own`         a user's own files and their names
- `inspection`  what a file is, in one record
- `verify`      everything that can be checked again
- `stand_in`    random weights in a published layout, for machines without the file
- `store`       the folder of files, their identity and their conversion

`catalog`, `files`, `fetch`, `manifests`, `clip_parts` and `store` can be imported without torch.
"""

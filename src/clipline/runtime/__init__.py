"""Running an exported model through onnxruntime: the bundle, its sessions and precisions, and CUDA buffers."""
